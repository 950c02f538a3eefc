package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// bootsAtMost of a kernel that panics before its first process: with more than one processor the emulator now and then runs into a
// breakpoint of the kernel's patching of its own text, which another processor has just taken away.
const bootsAtMost = 3

// run the packages' tests in a machine.
func (k kernel) run(ctx context.Context, initramfs string, o opts) (results []result, err error) {
	for range bootsAtMost {
		if results, err = k.boot(ctx, initramfs, o); !errors.Is(err, errSilent) {
			return results, err
		}
		fmt.Println(err)
	}
	return nil, err
}

func (k kernel) boot(ctx context.Context, initramfs string, o opts) ([]result, error) {
	// Each package ends itself in time; this is for a kernel that hangs.
	ctx, cancel := context.WithTimeout(ctx, time.Duration(len(o.packages))*o.timeout+5*time.Minute)
	defer cancel()
	console := filepath.Join(o.dir, "console-"+k.version+".log")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072",
		"-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot",
		"-kernel", filepath.Join(k.dir, "vmlinuz"), "-initrd", initramfs,
		"-append", "console=ttyS0 rdinit=/init panic=-1 mitigations=off",
		"-serial", "file:"+console, "-serial", "stdio")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	fmt.Printf("booting %s; its console is %s\n", k.version, console)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	results, err := read(ctx, k.version, out, o)
	if err != nil {
		_ = cmd.Process.Kill() // nobody hears it any more
	}
	err = errors.Join(err, cmd.Wait())
	if ctx.Err() != nil {
		err = fmt.Errorf("it did not end in time: %w", context.Cause(ctx))
	}
	if err != nil {
		return results, fmt.Errorf("machine with %s (see %s): %w", k.version, console, err)
	}
	return results, nil
}
