package v1alpha1

import "embed"

// CRDs are the manifests of the kinds, as crds/berth.dev_<plural>.yaml: whoever describes an object elsewhere takes its schema from here.
//
//go:embed crds/*.yaml
var CRDs embed.FS
