package journal

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
)

// ErrNotWritten: a change is known to this process, but not in the file; it is gone with the process.
var ErrNotWritten = errors.New("the journal cannot be written")

// idle is how long a change that nobody waits for may wait for another one to be written with.
const idle = 200 * time.Millisecond

// again is the time between attempts at a new file, after one that cannot be written.
var again = 10 * time.Second

// durably make a change: it is known at once, and in the file on return.
func (j *Journal) durably(do func(*state)) error {
	if j.file == "" {
		return nil
	}
	j.change(do)
	done := make(chan error, 1)
	select {
	case j.wanted <- done:
	case <-j.end:
	}
	select {
	case err := <-done:
		return err
	case <-j.done:
	}
	select {
	case err := <-done: // by its last commit
		return err
	default:
		return fmt.Errorf("%w: it is closed", ErrNotWritten)
	}
}

// lazily make a change that may be lost with the process: it is one that the API tells again.
func (j *Journal) lazily(do func(*state)) {
	if j.file == "" || !j.change(do) {
		return
	}
	select {
	case j.lazy <- struct{}{}:
	default: // somebody has said so already
	}
}

// change says whether there is something to write.
func (j *Journal) change(do func(*state)) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	do(j.state)
	return len(j.state.dirty) > 0
}

// write the changes until Close. Those that come while a transaction is under way share the next, so that many DELs at once cost few
// fsyncs, and a single one waits for nobody.
func (j *Journal) write() {
	defer close(j.done)
	var timer <-chan time.Time
	for {
		var waiting []chan error
		select {
		case <-j.end:
			_ = j.commit(j.rest(nil)) // it has logged what is wrong
			j.close()
			return
		case done := <-j.wanted:
			waiting = append(waiting, done)
		case <-j.lazy:
			if timer == nil {
				timer = time.After(idle)
			}
			continue
		case <-timer:
		}
		timer = nil
		if j.commit(j.rest(waiting)) != nil {
			timer = time.After(again)
		}
	}
}

// rest are all that wait by now.
func (j *Journal) rest(waiting []chan error) []chan error {
	for {
		select {
		case done := <-j.wanted:
			waiting = append(waiting, done)
		default:
			return waiting
		}
	}
}

// commit what is not in the file yet, and tell those who wait.
func (j *Journal) commit(waiting []chan error) error {
	err := j.flush()
	for _, done := range waiting {
		done <- err
	}
	return err
}

// flush what is not in the file yet. A file that cannot be written is set aside at once, since what it says is no longer true: an
// agent that read it after a restart would give away addresses that were released meanwhile.
func (j *Journal) flush() error {
	values, err := j.unwritten()
	if err != nil || len(values) == 0 {
		return err
	}
	if j.db != nil {
		var broken bool
		if broken, err = j.update(values); err == nil {
			return nil
		}
		j.markAll()
		j.log.Error("the journal cannot be written; it is set aside, and another begun", "file", j.file, "err", err)
		if !broken {
			j.close()
		}
		j.db = nil // a broken one keeps its mapping until the process ends: closing it would wait for its transaction
		if aside, err := setAside(j.file); err != nil {
			j.log.Error("the journal cannot be set aside; remove the file by hand, or repair the disk", "file", j.file, "err", err)
		} else {
			j.log.Error("journal set aside", "file", j.file, "as", aside)
		}
	} else if time.Now().Before(j.nextTry) {
		j.markAll()
		return fmt.Errorf("%w: %s, tried a moment ago; see the agent's log", ErrNotWritten, j.file)
	}
	if anewErr := j.anew(); anewErr != nil {
		err = fmt.Errorf("%w: %w", ErrNotWritten, errors.Join(err, anewErr))
		j.later(err)
		return err
	}
	return nil
}

// later another file is begun; for now there is none.
func (j *Journal) later(err error) {
	j.nextTry = time.Now().Add(again)
	j.log.Error("there is no journal: pods start, but not again while the Kubernetes API is away", "next try in", again, "err", err)
}

// anew begins a file, with all that is known.
func (j *Journal) anew() error {
	db, t, err := create(j.file)
	if err != nil {
		return err
	}
	j.db, j.tally = db, t
	j.markAll()
	values, err := j.unwritten()
	if err == nil {
		_, err = j.update(values)
	}
	if err != nil {
		j.close()
		j.markAll()
	}
	return err
}

// markAll records as not in the file.
func (j *Journal) markAll() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for k := range j.state.entries {
		j.state.dirty[record{bucketEntries, k}] = true
	}
	for id := range j.state.releases {
		j.state.dirty[record{bucketReleases, id}] = true
	}
	for key := range j.state.node {
		j.state.dirty[record{bucketNode, key}] = true
	}
}

// unwritten are the records to write, nil for those that are no more. They count as written from now on.
func (j *Journal) unwritten() (map[record][]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	values := make(map[record][]byte, len(j.state.dirty))
	for r := range j.state.dirty {
		value, err := j.state.encode(r)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotWritten, err)
		}
		values[r] = value
	}
	clear(j.state.dirty)
	return values, nil
}

// update the file in one transaction. broken: bbolt itself has panicked, or the mapping has faulted (an I/O error, a file cut short by
// others), and its locks are as they are.
func (j *Journal) update(values map[record][]byte) (broken bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			broken, err = true, fmt.Errorf("bbolt: %v", p)
		}
	}()
	return false, j.db.Update(func(tx *bbolt.Tx) error { return j.tally.write(tx, values) })
}

func (j *Journal) close() {
	if j.db == nil {
		return
	}
	if err := j.db.Close(); err != nil {
		j.log.Warn("close the journal", "file", j.file, "err", err)
	}
	j.db = nil
}

// Close writes what is left and gives up the lock of the file.
func (j *Journal) Close() {
	if j.file == "" {
		return
	}
	select {
	case <-j.end:
	default:
		close(j.end)
	}
	<-j.done
}
