package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/berthdev/berth/controller"
)

const kubeconfig = `{apiVersion: v1, kind: Config, current-context: a,
clusters: [{name: a, cluster: {server: "https://192.0.2.1"}}], users: [{name: a, user: {token: t}}], contexts: [{name: a, context: {cluster: a, user: a}}]}`

func TestFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		args []string
		want string // part of the error; "": runs
	}{
		{name: "defaults"},
		{name: "argument", args: []string{"run"}, want: `"run"`},
		{name: "no interval", args: []string{"--gc-interval=0s"}, want: "--gc-interval"},
		{name: "first sight", args: []string{"--gc-confirm-after=0s"}, want: "never freed at first sight"},
		{name: "negative", args: []string{"--forget-after=-1s"}, want: "--forget-after"},
		{name: "negative reservation", args: []string{"--reserve-for=-1h"}, want: "--reserve-for"},
		{name: "no quarantine", args: []string{"--quarantine-for=0s"}, want: "--quarantine-for must be more than 0"},
		{name: "member", args: []string{"--cluster-name=east", "--hub-kubeconfig-secret=berth-system/berth-hub"}},
		{name: "member without hub", args: []string{"--cluster-name=east"}, want: "go together"},
		{name: "hub without name", args: []string{"--hub-kubeconfig-secret=berth-system/berth-hub"}, want: "go together"},
		{name: "cluster name", args: []string{"--cluster-name=East.1", "--hub-kubeconfig-secret=a/b"}, want: `"East.1"`},
		{name: "secret", args: []string{"--cluster-name=east", "--hub-kubeconfig-secret=berth-hub"}, want: "NAMESPACE/NAME"},
		{name: "secret with a path", args: []string{"--cluster-name=east", "--hub-kubeconfig-secret=a/b/c"}, want: "NAMESPACE/NAME"},
		{name: "log level", args: []string{"--log-level=loud"}, want: "--log-level"},
		{name: "no kubeconfig", args: []string{"--kubeconfig=/absent"}, want: "--kubeconfig: stat /absent"},
		{name: "no service account", args: []string{"--kubeconfig="}, want: "set --kubeconfig where there is no service account"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ran := false
			cmd := command(func(_ context.Context, rc *rest.Config, cfg controller.Config) error {
				ran = true
				if rc.Host != "https://192.0.2.1" || cfg.ConfirmAfter != 45*time.Second || cfg.Log == nil {
					t.Errorf("host %s, config %+v", rc.Host, cfg)
				}
				return nil
			})
			cmd.SetArgs(append([]string{"--kubeconfig=" + file}, tc.args...))
			err := cmd.ExecuteContext(t.Context())
			if tc.want == "" {
				if err != nil || !ran {
					t.Errorf("ran %v, error %v", ran, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || ran {
				t.Errorf("error %v, ran %v; want one with %q", err, ran, tc.want)
			}
		})
	}
}
