package main

import "context"

const crrCommand = "connect-request-close"

func connectRequestClose(context.Context, []string) error { return nil }
func measurePath(context.Context, options, *report) error { return nil }
