// Package churn is for tests in which backends change while clients ask.
package churn

import (
	"slices"
	"sync"
)

// History is which backends there were: each entry from the moment that it is appended until the next is.
type History struct {
	mu      sync.Mutex
	allowed [][]string
}

// Now those are allowed.
func (h *History) Now(names ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.allowed = append(h.allowed, names)
}

// At is the present moment.
func (h *History) At() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.allowed) - 1
}

// Ever says whether the backend was allowed at any moment since.
func (h *History) Ever(name string, since int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.allowed[since:], func(names []string) bool { return slices.Contains(names, name) })
}
