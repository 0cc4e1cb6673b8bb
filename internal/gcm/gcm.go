// Package gcm has the sizes of AES-GCM as all algorithm suites use it (specification:
// framework/algorithm-suites.md).
package gcm

// The sizes in bytes.
const (
	IVSize  = 12
	TagSize = 16
)
