//! The utility VM and its devices: slots with counted references, back ends, and what files are shared with it.
