package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/agent/trace"
)

// watching are the flags of trace --watch.
type watching struct {
	on, untilEOF bool
	rate         uint32
	last         time.Duration
}

func (w *watching) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.on, "watch", false, "show the pod's packets as they come by, and which of them are dropped, until it is interrupted")
	cmd.Flags().Uint32Var(&w.rate, "rate", 100, "with --watch: at most so many packets in a second")
	cmd.Flags().DurationVar(&w.last, "for", 10*time.Minute, "with --watch: no longer than this")
	cmd.Flags().BoolVar(&w.untilEOF, "until-eof", false, "with --watch: end when the standard input does, so that it does not outlive who runs it from afar")
}

func (w *watching) run(cmd *cobra.Command, cfg trace.Config, r trace.Request, format format) error {
	switch {
	case w.rate == 0:
		return errors.New("--rate must be at least 1")
	case w.last <= 0:
		return fmt.Errorf("--for %s must be more than 0", w.last)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), w.last)
	defer cancel()
	if w.untilEOF {
		go func() {
			_, _ = io.Copy(io.Discard, cmd.InOrStdin())
			cancel()
		}()
	}
	out := cmd.OutOrStdout()
	return trace.Watch(ctx, cfg, r, w.rate, func(p report.Packet) error {
		if format == formatJSON {
			return json.NewEncoder(out).Encode(p)
		}
		return p.WriteText(out)
	})
}
