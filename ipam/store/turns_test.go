package store

import (
	"context"
	"errors"
	"testing"
)

func TestTurns(t *testing.T) {
	turns := newTurns()
	var last func()
	for range atOnce {
		done, err := turns.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		last = done
	}
	late, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := turns.take(late); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("one more than %d: %v", atOnce, err)
	}
	last()
	if _, err := turns.take(t.Context()); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}
