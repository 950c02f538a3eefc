package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// installPlugin puts the plugin's binary into the CNI bin directory, in one step: a runtime that executes it meanwhile finds the
// old one or the new one, never half of one.
func (a *Agent) installPlugin() error {
	if a.cfg.PluginSource == "" {
		return nil
	}
	binary, err := os.ReadFile(a.cfg.PluginSource)
	if err != nil {
		return fmt.Errorf("plugin to install: %w", err)
	}
	target := filepath.Join(a.cfg.CNIBinDir, "berth")
	if old, err := os.ReadFile(target); err == nil && bytes.Equal(old, binary) {
		return nil
	}
	if err := writeAtomically(target, binary); err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	a.log.Info("plugin installed", "path", target)
	return nil
}

func writeAtomically(target string, content []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(target), ".berth-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(0o755), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), target)
}
