package sock

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -strip llvm-strip-14 -no-global-types -type event -target bpfel,bpfeb sock sock.c -- -O2 -Wall -Wextra -Werror
