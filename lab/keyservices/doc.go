// Package keyservices tests the whole library under every key service: with the conformance suite,
// and with objects that move from one key service to another. It is in the module lab, so that no
// user's module requires all of them.
package keyservices
