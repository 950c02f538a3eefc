//go:build !linux

package delegate

// prepareLink has nothing to read: only Linux has network namespaces. The rest of the package is of use elsewhere.
func prepareLink(_, _ string) string { return "" }
