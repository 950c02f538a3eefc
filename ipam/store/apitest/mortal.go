//go:build apiserver

package apitest

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
)

// Mortal is a program's connections, which end all at once at one of its writes: before the API server sees it, or after, with the answer
// lost.
type Mortal struct {
	counts func(*http.Request) bool
	done   bool
	dead   chan struct{}

	mu   sync.Mutex
	left int
	last string
}

// DieAtEach of a program's writes in turn that count, before the API server sees it and after: a subtest each, which says whether the program died.
func DieAtEach(t *testing.T, name string, counts func(*http.Request) bool, do func(*testing.T, *Mortal) (died bool)) {
	for _, done := range []bool{false, true} {
		for writes := 0; ; writes++ {
			died := false
			t.Run(fmt.Sprintf("%s%d writes, the last one carried out: %t", name, writes, done), func(t *testing.T) {
				died = do(t, NewMortal(counts, writes, done))
			})
			if !died || t.Failed() {
				break
			}
		}
	}
}

// NewMortal lives through so many of the writes that count; of the next one, done says whether the API server carries it out.
func NewMortal(counts func(*http.Request) bool, writes int, done bool) *Mortal {
	return &Mortal{counts: counts, left: writes, done: done, dead: make(chan struct{})}
}

// Dead is closed at the end.
func (m *Mortal) Dead() <-chan struct{} { return m.dead }

// Last of the writes.
func (m *Mortal) Last() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

// Into a client's configuration.
func (m *Mortal) Into(cfg *rest.Config) *rest.Config {
	return Wrap(cfg, func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
		lives, dies := m.write(r)
		if dies && m.done {
			if resp, err := next.RoundTrip(r); err == nil {
				resp.Body.Close()
			}
		}
		if !lives {
			return nil, ErrFault
		}
		return next.RoundTrip(r)
	})
}

// write says whether a request is one of a program that lives, and whether it dies at this one.
func (m *Mortal) write(r *http.Request) (lives, dies bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left < 0 {
		return false, false
	}
	if r.Method == http.MethodGet || !m.counts(r) {
		return true, false
	}
	m.last = r.Method + " " + r.URL.Host + r.URL.Path
	if m.left--; m.left >= 0 {
		return true, false
	}
	close(m.dead)
	return false, true
}
