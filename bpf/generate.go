package bpf

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -strip llvm-strip-14 -no-global-types -type reason -target bpfel,bpfeb program program.c -- -O2 -Wall -Wextra -Werror
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -strip llvm-strip-14 -no-global-types -type refusal -target bpfel,bpfeb source source.c -- -O2 -Wall -Wextra -Werror
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -strip llvm-strip-14 -no-global-types -target bpfel,bpfeb watch watch.c -- -O2 -Wall -Wextra -Werror
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -strip llvm-strip-14 -no-global-types -type denial -target bpfel,bpfeb fence fence.c -- -O2 -Wall -Wextra -Werror
