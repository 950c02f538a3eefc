//go:build linux

package path

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/berthdev/berth/bpf"
)

// Cleanup removes everything of Berth's from this node: links (and with them their routes and neighbours), programs, pins and
// the nftables tables. Sysctls stay: others may rely on them by now. It needs no agent, and takes what any version left.
func Cleanup(cfg Config, log *slog.Logger) error {
	k, err := openKernel()
	if err != nil {
		return fmt.Errorf("open routing netlink: %w", err)
	}
	defer k.close()
	links, err := k.vmacs()
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range links {
		name := link.Attrs().Name
		if err := k.LinkSetDown(link); err != nil {
			errs = append(errs, fmt.Errorf("set down %q: %w", name, err))
		}
		if err := bpf.Remove(cfg.PinDir, name); err != nil {
			errs = append(errs, fmt.Errorf("remove the program of %q: %w", name, err))
		}
		if err := k.LinkDel(link); err != nil {
			errs = append(errs, fmt.Errorf("delete link %q: %w", name, err))
			continue
		}
		log.Info("removed", "link", name)
	}
	errs = append(errs, removePins(cfg.PinDir))
	if changed, err := k.syncOwnerRoutes(ownerRoutes{}); err != nil {
		errs = append(errs, err)
	} else if changed {
		log.Info("removed", "owner routes", "table 98")
	}
	if changed, err := masquerade(ruleset{}); err != nil {
		errs = append(errs, err)
	} else if changed {
		log.Info("removed", "table", "inet berth")
	}
	if changed, err := isolate(isolation{}); err != nil {
		errs = append(errs, err)
	} else if changed {
		log.Info("removed", "table", "inet berth-tenants")
	}
	return errors.Join(errs...)
}

// removePins removes what is pinned for vmacs that have gone without us.
func removePins(dir string) error {
	if err := bpf.RemoveWatch(dir); err != nil {
		return fmt.Errorf("remove what shows packets: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	var errs []error
	left := len(entries)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), vmacPrefix) {
			continue // of another part of the agent
		}
		if err := bpf.Remove(dir, e.Name()); err != nil {
			errs = append(errs, fmt.Errorf("remove the programs of %q: %w", e.Name(), err))
			continue
		}
		left--
	}
	if left == 0 {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
