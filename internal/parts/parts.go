// Package parts stands where the command still looks for [transfer.PartSize].
package parts

import "piko.sh/pikokms/transfer"

// BufferSize is transfer.PartSize.
func BufferSize(n int64) int { return transfer.PartSize(n) }
