package agent

import (
	"testing"
	"time"
)

func TestHearing(t *testing.T) {
	now := time.Now()
	h := &hearing{max: time.Minute, now: func() time.Time { return now }}
	check := func(want bool, when string) {
		t.Helper()
		if got := h.sure(); got != want {
			t.Errorf("sure: %t %s", got, when)
		}
	}
	check(false, "at the beginning")
	h.spoke()
	check(false, "by what a watch said before all was read")
	h.read(now)
	check(true, "after all was read")
	for range 3 {
		now = now.Add(time.Minute)
		h.spoke()
	}
	check(true, "as long as the watch speaks")
	now = now.Add(time.Minute + 1)
	h.spoke()
	check(false, "by what was said after a long silence")
	h.read(now.Add(-time.Hour))
	check(false, "after a reading that took long")
	h.read(now)
	wall := now.Round(0).Add(time.Hour) // the machine was stopped, and with it the monotonic clock
	h.now = func() time.Time { return wall }
	check(false, "after a long sleep of the machine")
}
