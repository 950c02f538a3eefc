//go:build !linux

package delegate

// Only Linux has network namespaces. The rest of the package is of use elsewhere.

func readMAC(_, _ string) string { return "" }

func setLinkDown(_, _ string) {}

func useTentative(_, _ string) {}
