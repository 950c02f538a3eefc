package main

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// hint adds the remedy to what an API server says.
func hint(err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w; is Berth installed here? kubectl apply -f deploy/install.yaml", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w; the cluster role berth-view allows it", err)
	}
	return err
}
