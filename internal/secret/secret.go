// Package secret runs code that handles plain keys, so that no copy of a key outlives it where the
// toolchain can see to that.
//
// Code of this module zeroes each copy of a key that it holds. Those that the standard library
// makes meanwhile are out of its reach: the state of an HMAC, values in registers and on the
// stack. Package runtime/secret erases them, and heap memory that was allocated meanwhile once it
// is unreachable. It exists in toolchains from Go 1.26 on, under GOEXPERIMENT=runtimesecret.
// Elsewhere those copies stay until their memory is used again.
package secret
