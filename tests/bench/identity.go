package main

import (
	"context"
	"fmt"
	"path/filepath"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// identity is who the agents are to the API server: as in a cluster a ServiceAccount with a token, and the role that the manifests give it.
// An administrator's certificate would be verified anew with each request, and no rule be asked about it. The floor has it, too.
type identity struct {
	kubeconfig string
	rest       *rest.Config
}

// floorRole lets agents write what the floor writes.
const floorRole = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: bench-floor}
rules: [{apiGroups: [bench.berth.dev], resources: [ipleases], verbs: [create, update]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: bench-floor}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: bench-floor}
subjects: [{kind: ServiceAccount, name: berth-agent, namespace: berth-system}]
`

// agentIdentity is written to a file in dir.
func (c *control) agentIdentity(ctx context.Context, dir string) (*identity, error) {
	manifests := filepath.Join(c.o.root, "deploy", "manifests")
	for _, f := range []string{"00-namespace.yaml", "10-agent-rbac.yaml"} {
		if err := c.apply(ctx, c.kubeconfig, "", "-f", filepath.Join(manifests, f)); err != nil {
			return nil, err
		}
	}
	if err := c.apply(ctx, c.kubeconfig, floorRole, "-f", "-"); err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(c.rest)
	if err != nil {
		return nil, err
	}
	token, err := client.CoreV1().ServiceAccounts("berth-system").CreateToken(ctx, "berth-agent", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("token of the agents: %w", err)
	}
	id := &identity{filepath.Join(dir, "agent.kubeconfig"), rest.AnonymousClientConfig(c.rest)}
	id.rest.BearerToken, id.rest.QPS = token.Status.Token, -1
	const name = "agent"
	file := clientcmdapi.NewConfig()
	file.Clusters[name] = &clientcmdapi.Cluster{Server: id.rest.Host, CertificateAuthority: id.rest.CAFile, CertificateAuthorityData: id.rest.CAData}
	file.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: id.rest.BearerToken}
	file.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	file.CurrentContext = name
	return id, clientcmd.WriteToFile(*file, id.kubeconfig)
}
