// Package suite runs containerd's own snapshotter suite against `plywood serve`, through containerd's own proxy
// client. Every test of the suite gets a daemon with a store of its own; when the test is over, its snapshots are
// removed as containerd's garbage collection would, and then nothing may be left on disk or mounted.
//
// It is built from Debian's source packages in GOPATH mode; `cargo xtask containerd suite` does so.
package suite

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

func TestPlywood(t *testing.T) {
	program := os.Getenv("PLYWOOD")
	if program == "" {
		t.Fatal("PLYWOOD does not name the program to test")
	}
	if os.Geteuid() != 0 {
		t.Fatal("mounting takes root")
	}
	testsuite.SnapshotterSuite(t, "plywood", func(ctx context.Context, directory string) (snapshots.Snapshotter, func() error, error) {
		return start(ctx, t, program, directory)
	})
}

// start serves a new store below directory and connects to it.
func start(ctx context.Context, t *testing.T, program, directory string) (snapshots.Snapshotter, func() error, error) {
	root, run := filepath.Join(directory, "store"), filepath.Join(directory, "run")
	// A path in a socket's address has room for about a hundred bytes, which a test's directory may exceed.
	sockets, err := os.MkdirTemp("", "plywood")
	if err != nil {
		return nil, nil, err
	}
	socket := filepath.Join(sockets, "s")
	log, err := os.Create(filepath.Join(directory, "log"))
	if err != nil {
		return nil, nil, err
	}
	daemon := exec.Command(program, "serve")
	daemon.Env = append(os.Environ(), "PLYWOOD_ROOT="+root, "PLYWOOD_RUN="+run, "PLYWOOD_ADDRESS="+socket)
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		return nil, nil, err
	}
	stop := func() error {
		defer os.RemoveAll(sockets)
		defer log.Close()
		if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		return daemon.Wait()
	}
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	connection, err := grpc.DialContext(wait, "unix://"+socket, grpc.WithBlock(),
		grpc.WithInsecure())
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		_ = stop()
		return nil, nil, fmt.Errorf("the daemon does not answer: %w; its log:\n%s", err, text)
	}
	snapshotter := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "plywood")
	finish := func() error {
		failed := removeAll(ctx, snapshotter)
		if failed == nil {
			failed = nothingLeft(root, run)
		}
		connection.Close()
		if err := stop(); failed == nil && err != nil {
			failed = fmt.Errorf("the daemon did not end well: %w", err)
		}
		if failed != nil || t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("the daemon's log:\n%s", text)
		}
		return failed
	}
	return snapshotter, finish, nil
}

// removeAll removes every snapshot, children first, and what they leave on disk.
func removeAll(ctx context.Context, snapshotter snapshots.Snapshotter) error {
	for {
		var keys []string
		err := snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
			keys = append(keys, info.Name)
			return nil
		})
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		if len(keys) == 0 {
			break
		}
		removed := 0
		for _, key := range keys {
			err := snapshotter.Remove(ctx, key)
			if err == nil {
				removed++
			} else if !errdefs.IsFailedPrecondition(err) {
				return fmt.Errorf("remove %q: %w", key, err)
			}
		}
		if removed == 0 {
			return fmt.Errorf("none of %d snapshots can be removed", len(keys))
		}
	}
	cleaner, ok := snapshotter.(snapshots.Cleaner)
	if !ok {
		return fmt.Errorf("the proxy client has no Cleanup")
	}
	if err := cleaner.Cleanup(ctx); err != nil {
		return fmt.Errorf("cleanup: %w", err)
	}
	return nil
}

// nothingLeft looks at the store's directories and at the mount table.
func nothingLeft(root, run string) error {
	for _, name := range []string{"layers", "snapshots", "staging"} {
		entries, err := os.ReadDir(filepath.Join(root, name))
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		if len(entries) != 0 {
			return fmt.Errorf("%d entries are left in %s, the first is %s", len(entries), name, entries[0].Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, run+"/") || strings.Contains(line, root+"/") {
			return fmt.Errorf("still mounted: %s", line)
		}
	}
	return nil
}
