package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

// ErrLocked: another process has the journal.
var ErrLocked = errors.New("the journal is in use by another process; is another berth-agent running on this node?")

const (
	maxSize   = 256 << 20 // of a file that is a journal, in bytes; an interface has some 2 KiB
	keptAside = 3         // files set aside that are kept
)

// Open the journal, or begin one. A file that is torn, corrupt or not a journal is set aside. Where there can be none, as on a full or
// read-only disk, it is begun once there can. If another process has it, Open waits until ctx ends, which is its only error. file "" is a
// journal that keeps nothing.
func Open(ctx context.Context, file string, now func() time.Time, log *slog.Logger) (*Journal, error) {
	j := &Journal{file: file, log: log, now: now, state: newState(),
		wanted: make(chan chan error, 256), lazy: make(chan struct{}, 1), end: make(chan struct{}), done: make(chan struct{})}
	if file == "" {
		return j, nil
	}
	switch err := j.begin(ctx); {
	case errors.Is(err, ErrLocked):
		return nil, fmt.Errorf("journal %s: %w", file, err)
	case err != nil:
		j.later(err)
	}
	go j.write()
	return j, nil
}

// begin with what the file says, or with another.
func (j *Journal) begin(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(j.file), 0o700); err != nil {
		return err
	}
	f, err := lock(ctx, j.file)
	if err != nil {
		return err
	}
	db, s, t, err := read(f)
	if err == nil {
		j.db, j.state, j.tally = db, s, t
		return nil
	}
	f.Close()
	aside, asideErr := setAside(j.file)
	if asideErr != nil {
		return errors.Join(err, asideErr)
	}
	j.log.Error("the journal is not readable and was set aside; what pods hold is read from the Kubernetes API instead",
		"file", j.file, "as", aside, "err", err)
	if db, t, err = create(j.file); err == nil {
		j.db, j.tally = db, t
	}
	return err
}

// create an empty journal. Nobody else is to have the file: the lock of the one before is given up with it.
func create(file string) (*bbolt.DB, *tally, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	f, err := lock(ctx, file)
	if err != nil {
		return nil, nil, err
	}
	if err := f.Truncate(0); err != nil { // of what could not be set aside
		f.Close()
		return nil, nil, err
	}
	db, _, t, err := read(f)
	if err != nil {
		f.Close()
	}
	return db, t, err
}

// lock opens the file and locks it, as bbolt does (flock), but before anything is read of it.
func lock(ctx context.Context, file string) (*os.File, error) {
	for {
		f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case errors.Is(err, syscall.EWOULDBLOCK):
		case err != nil:
			f.Close()
			return nil, fmt.Errorf("lock: %w", err)
		case isFile(f, file):
			return f, nil
		}
		f.Close()
		select {
		case <-ctx.Done():
			return nil, ErrLocked
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// isFile says whether f is what the path names: its last owner may have set it aside.
func isFile(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// read the whole file. bbolt trusts its pages and faults or panics on others, partly in goroutines of its own, so they are verified
// before.
func read(f *os.File) (db *bbolt.DB, s *state, t *tally, err error) {
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, nil, nil, err
	case !info.Mode().IsRegular():
		return nil, nil, nil, errors.New("not a regular file")
	case info.Size() > maxSize:
		return nil, nil, nil, fmt.Errorf("%d bytes are more than a journal has", info.Size())
	}
	content, err := io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
	if err != nil {
		return nil, nil, nil, err
	}
	if len(content) > 0 { // else it is new
		if err := verify(content, os.Getpagesize()); err != nil {
			return nil, nil, nil, err
		}
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			db, s, t, err = nil, nil, nil, fmt.Errorf("bbolt: %v", p)
		}
	}()
	db, err = bbolt.Open(f.Name(), 0o600, &bbolt.Options{
		OpenFile:       func(string, int, os.FileMode) (*os.File, error) { return f, nil },
		NoFreelistSync: true, // free pages are found at start: less to write, and less to be wrong
		FreelistType:   bbolt.FreelistMapType,
	})
	if err != nil {
		return nil, nil, nil, err
	}
	if s, t, err = load(db); err != nil {
		err = errors.Join(err, db.Close())
	}
	return db, s, t, err
}

// setAside renames the file, so that somebody may look at it, and removes what was set aside long ago.
func setAside(file string) (as string, err error) {
	as = file + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000")
	if err := os.Rename(file, as); err != nil {
		return "", err
	}
	old, err := filepath.Glob(file + ".corrupt-*")
	if err != nil {
		return as, err
	}
	slices.Sort(old)
	for _, o := range old[:max(0, len(old)-keptAside)] {
		if err := os.Remove(o); err != nil {
			return as, err
		}
	}
	return as, syncDir(filepath.Dir(file))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// number in the ID of a release.
func number(id string) int {
	_, n, _ := strings.Cut(id, "#")
	i, _ := strconv.Atoi(n)
	return i
}
