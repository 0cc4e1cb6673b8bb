// Package config has what the command takes from the environment and from a file.
package config

import "piko.sh/pikokms/cmd/pikokms/settings"

// Manual explains where flags come from that the command line does not have. The root command's
// help has it, and so has the man page.
const Manual = `
Configuration:
  A flag that the command line does not have is taken from the environment:
  --kms-timeout from PIKOKMS_KMS_TIMEOUT, and so on. Several values of one flag
  are separated by newlines, KEYs also by spaces. A variable PIKOKMS_… that no flag
  has is refused.
  What the environment does not have either is taken from a file in TOML: the one
  that --config or PIKOKMS_CONFIG names, or else pikokms.toml in the user's
  configuration folder (~/.config on Linux). A flag is a name in it, without its
  dashes, for every command that has the flag, or for the command alone whose
  table it is in:
    key = "awskms://alias/backups?region=eu-west-1"
    jobs = 16
    [encrypt]
    compress = "zstd"
    [keys.check]
    role = "writer"
  Traces and metrics go where the variables OTEL_EXPORTER_OTLP_… of OpenTelemetry
  say, and nowhere without them. Traces number objects; --trace-names names them.
`

// Program is this command. Package keys reads PIKOKMS_KEY. The others are the variables of the
// gateway and of pikokms-batch, and those of the project's tests, which run this command.
var Program = settings.Program{
	Prefix: "PIKOKMS_",
	File:   "pikokms.toml",
	Read:   "key",
	Others: []string{
		"PIKOKMS_GATEWAY_",

		"PIKOKMS_AZURE_URL", "PIKOKMS_BOOTSTRAP", "PIKOKMS_ENCRYPTION_CLI", "PIKOKMS_FIGURES", "PIKOKMS_GCS_URL", "PIKOKMS_GORELEASER",
		"PIKOKMS_JARS", "PIKOKMS_LOCALSTACK_URL", "PIKOKMS_NODE_MODULES", "PIKOKMS_OPENBAO", "PIKOKMS_PYTHON", "PIKOKMS_REQUIRE_DOCKER",
		"PIKOKMS_SOAK_PROFILE", "PIKOKMS_TASKS", "PIKOKMS_TEST_JOURNAL", "PIKOKMS_TEST_LONG_WORK", "PIKOKMS_TEST_MILLION",

		"PIKOKMS_ALLOW_LOSSES", "PIKOKMS_ALLOW_PIKO_V2", "PIKOKMS_BIND_OBJECT_NAMES", "PIKOKMS_BIND_UNBOUND",
		"PIKOKMS_DATA_KEY_CACHE", "PIKOKMS_JOB", "PIKOKMS_MB_PER_SECOND", "PIKOKMS_OLD_KEYS", "PIKOKMS_RECOVERY_KEYS",
		"PIKOKMS_REQUESTER_PAYS",
	},
}
