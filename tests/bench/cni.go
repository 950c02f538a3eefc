package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os/exec"
	"strings"
)

// plugin is called as a runtime calls it: a process, with its parameters in the environment and its configuration on stdin.
type plugin struct {
	path, config string
}

// sandbox is what a call is for.
type sandbox struct {
	containerID, netns, args string
}

func newSandbox(p pod, kind string) sandbox {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	id := hex.EncodeToString(b)
	return sandbox{containerID: id, netns: p.netns, args: p.args[kind] + ";K8S_POD_INFRA_CONTAINER_ID=" + id}
}

func (p plugin) call(ctx context.Context, verb string, s sandbox) (answer string, err error) {
	cmd := exec.CommandContext(ctx, p.path)
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + s.containerID, "CNI_NETNS=" + s.netns, "CNI_IFNAME=" + podLink,
		"CNI_ARGS=" + s.args, "CNI_PATH=/opt/cni/bin", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdin = strings.NewReader(p.config)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s of %s: %w: %s", verb, p.path, err, &out)
	}
	return out.String(), nil
}
