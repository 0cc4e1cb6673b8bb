// Package secret runs code that handles plain keys. Where the toolchain supports it, no copy of a
// key outlives that code.
//
// The code of this module zeroes each copy of a key that it holds. It can't reach copies of the
// standard library: the state of an HMAC, and values in registers and on the stack. Package
// runtime/secret erases those. It also erases heap memory that was allocated meanwhile, once it is
// unreachable. Toolchains from Go 1.26 on have it under GOEXPERIMENT=runtimesecret. Elsewhere,
// those copies stay until their memory is used again.
package secret
