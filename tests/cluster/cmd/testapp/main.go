// Command testapp is the application of the lab's tests.
package main

func main() { select {} }
