// Package apiconfig is how the agent and the controller find the API server.
package apiconfig

import (
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Load the kubeconfig that the flag --kubeconfig names; "" is the pod's service account.
func Load(file string) (*rest.Config, error) {
	if file == "" {
		rc, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("%w; set --kubeconfig where there is no service account", err)
		}
		return rc, nil
	}
	rc, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	return rc, nil
}
