//! Taking and undoing single steps, each journaled first.

use std::sync::{MutexGuard, PoisonError};

use bridge::GuestRequest;

use super::Inner;
use crate::journal::{Journal, StepId};
use crate::step::Step;
use crate::table::Phase;
use crate::{Deadline, Error, ErrorKind, Result};

impl Inner {
    /// Only held for one append, never while the host or the guest works.
    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a step; it is in `taken` if it stands or may stand. The answer is a share's port.
    pub(super) fn take(
        &self,
        step: Step,
        deadline: &Deadline,
        taken: &mut Vec<(StepId, Step)>,
    ) -> Result<Option<u32>> {
        let id = self.journal().intend(&step)?;
        let performed = self.perform(&step, deadline);
        let error = match performed.map_err(|error| error.doing(&step.doing())) {
            Ok(port) => {
                self.journal().done(id);
                taken.push((id, step));
                return Ok(port);
            }
            Err(error) => error,
        };
        let on_the_host = step.add_request().is_none();
        if on_the_host || !error.is_uncertain() {
            self.journal().gone(id);
        } else if self.undo(id, &step).is_err() {
            taken.push((id, step));
        }
        Err(error)
    }

    fn perform(&self, step: &Step, deadline: &Deadline) -> Result<Option<u32>> {
        match step {
            Step::Scsi { slot, disk } => self.vm.add_scsi(*slot, disk).map(|()| None),
            Step::Pmem { device, range, path } => {
                self.vm.add_pmem(*device, *range, path, true).map(|()| None)
            }
            Step::Share(share) => self.vm.add_share(share).map(Some),
            Step::ScsiMount { .. }
            | Step::PmemMount { .. }
            | Step::ShareMount { .. }
            | Step::Combine { .. } => {
                let request = step.add_request().expect("steps of the guest have a request");
                self.vm.guest(&request, deadline).map(|()| None)
            }
        }
    }

    /// Undoes steps, last first, and stops at the first that resists: what it stands on is needed by it.
    pub(super) fn undo_all(&self, steps: &mut Vec<(StepId, Step)>) -> Result<()> {
        while let Some((id, step)) = steps.last() {
            if self.stays(step) {
                break;
            }
            self.undo(*id, step)?;
            steps.pop();
        }
        Ok(())
    }

    /// Whether a step cannot be undone before the machine ends, by nobody's fault.
    fn stays(&self, step: &Step) -> bool {
        matches!(step, Step::Pmem { .. }) && !self.can.pmem_removable
    }

    /// The phase of an entry of which these steps are left.
    pub(super) fn phase_of_rest(&self, steps: &[(StepId, Step)]) -> Phase {
        match steps.last() {
            Some((_, step)) if self.stays(step) => Phase::Parked,
            _ => Phase::Stuck,
        }
    }

    fn undo(&self, id: StepId, step: &Step) -> Result<()> {
        self.journal().undo(id);
        let deadline = Deadline::after(self.undo_time);
        let result = match step.remove_request() {
            Some(request) => self.ask_to_remove(&request, &deadline),
            None => Ok(()),
        };
        let result = result.and_then(|()| match step {
            Step::Scsi { slot, .. } => is_gone(self.vm.remove_scsi(*slot)),
            Step::Pmem { device, range, .. } => is_gone(self.vm.remove_pmem(*device, *range)),
            Step::Share(share) => is_gone(self.vm.remove_share(&share.name)),
            Step::ScsiMount { .. }
            | Step::PmemMount { .. }
            | Step::ShareMount { .. }
            | Step::Combine { .. } => Ok(()),
        });
        match result {
            Ok(()) => {
                self.journal().gone(id);
                Ok(())
            }
            Err(error) => {
                self.journal().failed(id, &error);
                Err(error.doing(&format!("undo: {}", step.doing())))
            }
        }
    }

    /// A guest that is no more has nothing mounted.
    fn ask_to_remove(&self, request: &GuestRequest, deadline: &Deadline) -> Result<()> {
        match self.vm.guest(request, deadline) {
            Err(error) if error.kind() == ErrorKind::Dead => Ok(()),
            result => result,
        }
    }

    /// Undoes what an owner before us has left, newest first, whatever fails on the way. What resists stays known.
    pub(super) fn reconcile(&self, left: Vec<(StepId, Step)>) -> Vec<Error> {
        let mut errors = Vec::new();
        for (id, step) in left.into_iter().rev() {
            if let Step::Share(share) = &step {
                self.lock().after_share(&share.name);
            }
            if !self.stays(&step) {
                match self.undo(id, &step) {
                    Ok(()) => continue,
                    Err(error) => errors.push(error),
                }
            }
            // Oldest first again.
            self.lock().leftover.insert(0, (id, step));
        }
        errors
    }
}

/// Not being there is what was wanted, and a machine that has ended holds nothing.
fn is_gone(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if matches!(error.kind(), ErrorKind::NotAttached | ErrorKind::Dead) => Ok(()),
        result => result,
    }
}
