// Empty is the least that a program in Go can be: what its start takes, the start of every plugin in Go takes.
package main

func main() {}
