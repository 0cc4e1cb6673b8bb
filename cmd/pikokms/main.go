// Command pikokms encrypts, decrypts, verifies and inspects files, folders and buckets in the AWS
// Encryption SDK message format, under AWS KMS or a local key. Run pikokms help.
package main

import "piko.sh/pikokms/cmd/pikokms/internal/verbs"

func main() { verbs.Main() }
