//go:build goexperiment.runtimesecret

package secret

import "runtime/secret"

// Do calls f and erases what f leaves in memory.
func Do(f func()) { secret.Do(f) }
