package main

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

//go:embed init.sh
var initScript string

// initramfs writes the file system that the kernel unpacks at boot. It is all that the machine has.
func (k kernel) initramfs(file string, common map[string]string, o opts) (err error) {
	modules, err := k.modules()
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := &archive{Writer: bufio.NewWriter(f)}
	for _, d := range append(folders(common), "dev", "proc", "sys", "tmp", "run", "etc", "modules") {
		w.add(d, 0o040755, nil)
	}
	w.add("init", 0o100755, []byte(initScript))
	w.add("packages", 0o100644, []byte(strings.Join(o.packages, "\n")+"\n"))
	w.add("flags", 0o100644, fmt.Appendf(nil, "-test.timeout=%s -test.run=%s\n", o.timeout, o.run))
	var order strings.Builder
	for _, m := range modules {
		w.add("modules/"+m.name, 0o100644, m.data)
		order.WriteString(m.name + "\n")
	}
	w.add("order", 0o100644, []byte(order.String()))
	for name, from := range common {
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		w.add(name, 0o100755, data)
	}
	w.add("TRAILER!!!", 0, nil)
	return errors.Join(w.err, w.Flush())
}

// archive is cpio's "newc" format (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	*bufio.Writer
	inode int
	err   error
}

func (a *archive) add(name string, mode int, data []byte) {
	a.inode++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad(header)
	a.pad(string(data))
}

// pad writes, up to a multiple of four.
func (a *archive) pad(s string) {
	_, err := io.WriteString(a, s+strings.Repeat("\x00", -len(s)&3))
	a.err = errors.Join(a.err, err)
}
