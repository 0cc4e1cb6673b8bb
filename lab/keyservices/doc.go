// Package keyservices holds the tests of the whole house under every key service: the conformance
// suite, and objects that move from one key service to another. It is in the module lab, so
// that no user's module requires all of them.
package keyservices
