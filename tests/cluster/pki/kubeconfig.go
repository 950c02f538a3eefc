package pki

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
)

// Kubeconfig writes a kubeconfig that carries its certificates inside, so that
// it works from any mount namespace.
func (a *Authority) Kubeconfig(path, cluster, server string, s Subject) error {
	base := filepath.Base(path)
	p, err := a.Issue(base, s)
	if err != nil {
		return err
	}
	b64 := base64.StdEncoding.EncodeToString
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: %[1]s
  cluster:
    server: %[2]s
    certificate-authority-data: %[3]s
users:
- name: %[4]s
  user:
    client-certificate-data: %[5]s
    client-key-data: %[6]s
contexts:
- name: %[1]s
  context:
    cluster: %[1]s
    user: %[4]s
current-context: %[1]s
`, cluster, server, b64(a.Cert), s.User, b64(p.Cert), b64(p.Key))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("kubeconfig of %s: %w", s.User, err)
	}
	return nil
}
