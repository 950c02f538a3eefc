package sock

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// ErrNotSupported is that this kernel, or what is mounted, does not do for socket translation.
var ErrNotSupported = errors.New("socket translation is not supported")

// Supported says what is missing to attach to the cgroup. It tries, by programs that do nothing, and leaves nothing behind.
func Supported(cgroup string) error {
	errs := []error{onCgroup2(cgroup)}
	for name, at := range hooks {
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.CGroupSockAddr, AttachType: at, License: "Dual BSD/GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("the kernel takes no program at %s (CONFIG_CGROUP_BPF): %w", at, err))
			continue
		}
		if errs[0] == nil {
			l, err := attachTo(cgroup, name, program)
			if err != nil {
				errs = append(errs, fmt.Errorf("the kernel cannot link a program to %s: %w", cgroup, err))
			} else {
				l.Close()
			}
		}
		program.Close()
	}
	for _, helper := range []asm.BuiltinFunc{asm.FnGetNetnsCookie, asm.FnGetSocketCookie, asm.FnSetRetval, asm.FnSkStorageGet} {
		if err := features.HaveProgramHelper(ebpf.CGroupSockAddr, helper); err != nil {
			errs = append(errs, fmt.Errorf("the kernel's programs cannot call %s: %w", helper, err))
		}
	}
	for _, kind := range []ebpf.MapType{ebpf.LRUHash, ebpf.SkStorage, ebpf.ArrayOfMaps} {
		if err := features.HaveMapType(kind); err != nil {
			errs = append(errs, fmt.Errorf("the kernel has no map %s: %w", kind, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrNotSupported, err)
	}
	return nil
}
