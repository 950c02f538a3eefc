package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/berthdev/berth/agent"
	"github.com/berthdev/berth/agent/doctor"
	"github.com/berthdev/berth/agent/path"
)

// netNS is where the container runtimes have their sandboxes' namespaces.
const netNS = "/run/netns"

// errWrong: the findings have been written.
var errWrong = errors.New("the service path of this node is not as it should be")

// doctorCommand takes the agent's own flags, so that whoever runs it beside an agent hands on what that was started with.
func doctorCommand(cfg *agent.Config, servicePath, fastMode *bool, agentFlags *pflag.FlagSet) *cobra.Command {
	format := formatText
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look what is wrong with the service path of this node, and what mends it; changes nothing",
		Long: "Look what is wrong with the service path of this node, and what mends it. Nothing is changed. It takes the flags of the agent,\n" +
			"which should be those of the agent that runs here. The exit code is 1 if something is wrong.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.NodeName == "" { // a vmac's MAC comes from it
				return errNoNode
			}
			found := doctor.Examine(cmd.Context(), doctor.Config{
				Path:   path.Config{NodeName: cfg.NodeName, PinDir: cfg.PinDir},
				Socket: cfg.Socket, Plugin: cfg.PluginSource, CNIBinDir: cfg.CNIBinDir, NetNS: netNS,
				NoPath: !*servicePath, NoFast: !*fastMode, CgroupDirs: cfg.CgroupDirs, Between: time.Second,
			})
			if err := format.write(cmd.OutOrStdout(), found, func(w io.Writer) { found.WriteText(w, true) }); err != nil {
				return err
			}
			if found.Wrong() {
				return errWrong
			}
			return nil
		},
	}
	cmd.Flags().AddFlagSet(agentFlags)
	cmd.Flags().VarP(&format, "output", "o", "text or json")
	return cmd
}

// format of what is written.
type format string

const (
	formatText format = "text"
	formatJSON format = "json"
)

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }

func (f *format) Set(s string) error {
	switch format(s) {
	case formatText, formatJSON:
		*f = format(s)
		return nil
	}
	return fmt.Errorf("%q is neither text nor json", s)
}

func (f format) write(w io.Writer, what any, text func(io.Writer)) error {
	if f == formatText {
		text(w)
		return nil
	}
	return json.NewEncoder(w).Encode(what)
}
