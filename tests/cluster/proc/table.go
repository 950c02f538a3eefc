// Package proc starts the lab's daemons and remembers them in a file, so that
// a later `lab down` stops exactly these and nothing that looks like them.
package proc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Process is one daemon. A pid alone may be reused; with its start time and
// the machine's boot it may not.
type Process struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, /proc/<pid>/stat
	Boot  string `json:"boot"`
	Log   string `json:"log"`
}

// Table is the list of a lab's daemons, kept in a file.
type Table struct {
	path  string
	procs []Process
}

// Open reads the table at path; a file that is not there is an empty table.
func Open(path string) (*Table, error) {
	t := &Table{path: path}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, fmt.Errorf("process table: %w", err)
	}
	if err := json.Unmarshal(b, &t.procs); err != nil {
		return nil, fmt.Errorf("process table %s: %w; stop what it lists by hand, then remove it", path, err)
	}
	return t, nil
}

// Start runs argv as a daemon of its own session, with output to the file
// log, and records it under name, in place of one that ended by itself.
func (t *Table) Start(name, log string, argv []string, attr *syscall.SysProcAttr) (Process, error) {
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		return Process{}, err
	}
	out, err := os.Create(log)
	if err != nil {
		return Process{}, err
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = "/"
	if attr == nil {
		attr = &syscall.SysProcAttr{}
	}
	attr.Setsid = true
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		return Process{}, fmt.Errorf("start %s: %w", name, err)
	}
	// Reaps the daemon should it die while this command runs, or it would
	// seem alive as a zombie.
	go cmd.Wait()
	p := Process{Name: name, PID: cmd.Process.Pid, Boot: bootID(), Log: log}
	if s, err := stat(p.PID); err == nil {
		p.Start = s.start
	}
	t.procs = slices.DeleteFunc(t.procs, func(q Process) bool { return q.Name == name && !q.Alive() })
	t.procs = append(t.procs, p)
	if err := t.save(); err != nil {
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
		return Process{}, err
	}
	return p, nil
}

// Lookup finds a process by the name it was started under.
func (t *Table) Lookup(name string) (Process, bool) {
	for _, p := range t.procs {
		if p.Name == name {
			return p, true
		}
	}
	return Process{}, false
}

// All lists the processes in the order they were started.
func (t *Table) All() []Process { return t.procs }

// Alive reports whether the process, and not another with its pid, runs.
func (p Process) Alive() bool {
	if p.PID <= 1 || p.Boot != bootID() {
		return false
	}
	s, err := stat(p.PID)
	return err == nil && s.start == p.Start && s.state != 'Z' && s.state != 'X'
}

// Kill kills the process of that name, waits for its end and forgets it.
func (t *Table) Kill(name string) error {
	i := slices.IndexFunc(t.procs, func(p Process) bool { return p.Name == name })
	if i < 0 {
		return fmt.Errorf("%s does not run", name)
	}
	if err := t.procs[i].kill(); err != nil {
		return err
	}
	if err := t.procs[i].waitEnd(); err != nil {
		return err
	}
	t.procs = slices.Delete(t.procs, i, i+1)
	return t.save()
}

func (p Process) kill() error {
	if !p.Alive() {
		return nil
	}
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s (pid %d): %w", p.Name, p.PID, err)
	}
	return nil
}

func (p Process) waitEnd() error {
	for deadline := time.Now().Add(20 * time.Second); p.Alive(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s (pid %d) still there 20 s after SIGKILL; see /proc/%d/stack", p.Name, p.PID, p.PID)
		}
	}
	return nil
}

// KillAll kills every process of the table, the last started first, waits for
// their ends and empties the table. There is no gentle way: the state of a lab
// is thrown away with it.
func (t *Table) KillAll() error {
	for i := len(t.procs) - 1; i >= 0; i-- {
		if err := t.procs[i].kill(); err != nil {
			return err
		}
	}
	for _, p := range t.procs {
		if err := p.waitEnd(); err != nil {
			return err
		}
	}
	t.procs = nil
	if err := os.Remove(t.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (t *Table) save() error {
	b, err := json.MarshalIndent(t.procs, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(t.path+".new", b, 0o644); err != nil {
		return err
	}
	return os.Rename(t.path+".new", t.path)
}
