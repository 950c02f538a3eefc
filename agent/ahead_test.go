package agent

import (
	"testing"
	"time"
)

func TestAheadAtMost(t *testing.T) {
	a := make(ahead, 2)
	for range cap(a) {
		if !a.begin(time.Minute) {
			t.Fatal("not begun, and there is room")
		}
	}
	if a.begin(10 * time.Millisecond) {
		t.Fatal("one more than may be has begun")
	}
	go a.end()
	if !a.begin(time.Minute) {
		t.Fatal("not begun, though one has ended")
	}
	go func() {
		a.end()
		a.end()
	}()
	a.stop()
	if a.begin(10 * time.Millisecond) {
		t.Fatal("begun after the stop")
	}
}
