package verbs

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/admin"
	"piko.sh/pikokms/kmstest"
)

// enforced is a KMS that allows only what an IAM policy allows. It evaluates what pikokms writes
// into policies: lists of actions and resources, and StringEquals on the encryption context.
type enforced struct {
	*kmstest.Server
	mu         sync.Mutex
	statements []admin.Statement
}

func enforce(t *testing.T) *enforced {
	e := &enforced{Server: kmstest.NewServer(t)}
	e.Inject(kmstest.Fault{When: func(r kmstest.Request) bool { return !e.allows(r) }, Do: kmstest.Deny()})
	return e
}

func (e *enforced) set(statements []admin.Statement) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.statements = statements
}

func (e *enforced) allows(r kmstest.Request) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.statements, func(s admin.Statement) bool {
		matches := func(action string) bool {
			prefix, wild := strings.CutSuffix(action, "*")
			return action == "kms:"+r.Operation || wild && strings.HasPrefix("kms:"+r.Operation, prefix)
		}
		if !slices.ContainsFunc(texts(s.Action), matches) || !slices.Contains(texts(s.Resource), r.KeyARN) {
			return false
		}
		for name, value := range s.Condition["StringEquals"] {
			if r.EncryptionContext[strings.TrimPrefix(name, "kms:EncryptionContext:")] != value {
				return false
			}
		}
		return len(s.Condition) == 0 || len(s.Condition) == 1 && s.Condition["StringEquals"] != nil
	})
}

// texts returns a string or a list of a policy's JSON.
func texts(value any) []string {
	switch v := value.(type) {
	case string:
		return []string{v}
	case []string:
		return v
	}
	var list []string
	for _, element := range value.([]any) {
		list = append(list, element.(string))
	}
	return list
}

// without returns statements without an action.
func without(statements []admin.Statement, action string) []admin.Statement {
	var rest []admin.Statement
	for _, s := range statements {
		s.Action = slices.DeleteFunc(slices.Clone(texts(s.Action)), func(a string) bool { return a == action })
		rest = append(rest, s)
	}
	return rest
}

// policyOf runs keys policy.
func policyOf(t *testing.T, arguments ...string) []admin.Statement {
	t.Helper()
	stdout, stderr, _, err := execute(t, append([]string{"keys", "policy"}, arguments...)...)
	require.NoError(t, err, stderr)
	decoder := json.NewDecoder(strings.NewReader(stdout))
	decoder.DisallowUnknownFields()
	var p admin.Policy
	require.NoError(t, decoder.Decode(&p), stdout)
	require.Equal(t, admin.PolicyVersion, p.Version)
	return p.Statement
}

// TestPoliciesAreEnoughAndLeast runs each role's commands against a KMS that allows what the role's
// policy allows. The commands succeed, and fail without any one of the actions. Keys check finds
// the same.
func TestPoliciesAreEnoughAndLeast(t *testing.T) {
	startsManyProcesses(t)
	kms := enforce(t)
	one, two := kms.CreateKey(kmstest.Key{Alias: "alias/one"}), kms.CreateKey(kmstest.Key{})
	url := func(name string) string { return "awskms:///" + name + "?endpoint=" + kms.URL }
	alias := "awskms://alias/one?region=" + one.Region + "&endpoint=" + kms.URL
	all := []admin.Statement{{Action: "kms:*", Resource: []string{one.ARN, two.ARN}}}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.WriteFile(at("in"), []byte("hello\n"), 0o600))
	kms.set(all)
	_, stderr, _, err := execute(t, "encrypt", "-k", url(one.ARN), "-k", url(two.ARN), "-c", "tenant=42", "-o", at("enc"), at("in"))
	require.NoError(t, err, stderr)

	for name, test := range map[string]struct {
		keys     []string   // of keys policy and keys check
		role     string     //
		commands [][]string // those of the role
		other    []string   // what the condition refuses
	}{
		"reader": {
			keys: []string{"-k", url(one.ARN)}, role: "reader",
			commands: [][]string{{"verify", "-k", url(one.ARN), at("enc")}, {"cat", "-k", url(one.ARN), at("enc")}},
		},
		"reader of an alias": {
			keys: []string{"-k", alias}, role: "reader",
			commands: [][]string{{"decrypt", "-k", alias, at("enc")}},
		},
		"writer": {
			keys: []string{"-k", url(one.ARN)}, role: "writer",
			commands: [][]string{{"encrypt", "-k", url(one.ARN), "-c", "tenant=42", at("in")}},
			other:    []string{"encrypt", "-k", url(one.ARN), "-c", "tenant=43", at("in")},
		},
		"writer for two": {
			keys: []string{"-k", alias, "-k", url(two.ARN)}, role: "writer",
			commands: [][]string{{"encrypt", "-k", alias, "-k", url(two.ARN), "-c", "tenant=42", at("in")}},
		},
		"rewrapper": {
			keys: []string{"-k", url(one.ARN), "--to", url(two.ARN)}, role: "rewrapper",
			commands: [][]string{{"rewrap", "-k", url(one.ARN), "--to", url(two.ARN), "-c", "tenant=42", "-f", "-o", at("new"), at("enc")}},
		},
		"rewrapper of one": {
			keys: []string{"-k", url(one.ARN)}, role: "rewrapper",
			commands: [][]string{{"rewrap", "-k", url(one.ARN), "--to", url(one.ARN), "-c", "tenant=42", "-f", "-o", at("new"), at("enc")}},
		},
	} {
		for _, pairs := range [][]string{nil, {"-c", "tenant=42"}} {
			if pairs != nil && name != test.role {
				continue // one case of each role is enough
			}
			t.Run(strings.Join(append([]string{name}, pairs...), " "), func(t *testing.T) {
				kms.set(all) // to ask for an alias's key
				asked := append(append([]string{"--role", test.role}, test.keys...), pairs...)
				statements := policyOf(t, asked...)
				run := func() (said string, failed error) {
					for _, command := range test.commands {
						if _, stderr, _, err := execute(t, command...); err != nil {
							return stderr, err
						}
					}
					return "", nil
				}
				check := func() (report []admin.CheckedKey, err error) {
					stdout, _, _, err := execute(t, append([]string{"keys", "check", "--json"}, asked...)...)
					require.NoError(t, json.Unmarshal([]byte(stdout), &report))
					return report, err
				}
				kms.set(statements)
				said, err := run()
				require.NoError(t, err, said)
				_, err = check()
				require.NoError(t, err)
				if pairs != nil && test.other != nil {
					_, _, _, err := execute(t, test.other...)
					require.Error(t, err)
				}

				var actions []string
				for _, s := range statements {
					actions = append(actions, texts(s.Action)...)
				}
				require.NotEmpty(t, actions)
				for _, action := range actions {
					rest := without(statements, action)
					kms.set(rest)
					_, err := run()
					require.Error(t, err, "without %s", action)
					report, err := check()
					require.Error(t, err, "without %s", action)
					var added []admin.Statement
					for _, k := range report {
						require.Equal(t, k.Usable, len(k.Statement) == 0)
						for _, p := range k.Permissions {
							if p.Action == action && p.Needed && p.Allowed != "yes" {
								require.NotEmpty(t, p.Breaks)
							}
						}
						added = append(added, k.Statement...)
					}
					if slices.Contains(test.keys, alias) && action == "kms:DescribeKey" {
						continue // without it, the statement can't name the key by its ARN
					}
					kms.set(append(rest, added...))
					said, err := run()
					require.NoError(t, err, "with what keys check says to add: %s", said)
				}
			})
		}
	}
}

func TestKeyPolicyKeepsTheAccountInCharge(t *testing.T) {
	const keyARN = "arn:aws-cn:kms:cn-north-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	const principal = "arn:aws-cn:iam::111122223333:role/backup"
	statements := policyOf(t, "--role", "writer", "-k", "awskms:///"+keyARN, "--principal", principal, "-c", "tenant=42")
	require.Len(t, statements, 2)
	root, writer := statements[0], statements[1]
	require.Equal(t, map[string]any{"AWS": "arn:aws-cn:iam::111122223333:root"}, root.Principal)
	require.Contains(t, texts(root.Action), "kms:Put*")
	for _, action := range texts(root.Action) {
		for _, use := range []string{"kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:CreateGrant"} {
			prefix, wild := strings.CutSuffix(action, "*")
			require.False(t, action == use || wild && strings.HasPrefix(use, prefix), "%s allows %s", action, use)
		}
	}
	require.Equal(t, map[string]any{"AWS": principal}, writer.Principal)
	require.Equal(t, "kms:GenerateDataKey", writer.Action)
	require.Equal(t, "*", writer.Resource)
	require.Equal(t, map[string]map[string]string{"StringEquals": {"kms:EncryptionContext:tenant": "42"}}, writer.Condition)
}

// motoEnforces makes moto's IAM take a policy and evaluate it. Moto passes no resources of KMS to
// its IAM, so the policy is evaluated for all resources.
const motoEnforces = `
import json, sys
import boto3
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count

@mock_aws
def allowed(policy):
    iam, kms = boto3.client("iam", region_name="eu-west-1"), boto3.client("kms", region_name="eu-west-1")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    iam.create_policy(PolicyName="as-written", PolicyDocument=json.dumps(policy))
    for statement in policy["Statement"]:
        statement["Resource"] = "*"
    iam.create_user(UserName="u")
    iam.put_user_policy(UserName="u", PolicyName="p", PolicyDocument=json.dumps(policy))
    access = iam.create_access_key(UserName="u")["AccessKey"]
    as_user = boto3.client("kms", region_name="eu-west-1", aws_access_key_id=access["AccessKeyId"], aws_secret_access_key=access["SecretAccessKey"])
    calls = {
        "kms:Decrypt": lambda: as_user.decrypt(CiphertextBlob=blob),
        "kms:Encrypt": lambda: as_user.encrypt(KeyId=key, Plaintext=b"x"),
        "kms:GenerateDataKey": lambda: as_user.generate_data_key(KeyId=key, KeySpec="AES_256"),
        "kms:DescribeKey": lambda: as_user.describe_key(KeyId=key),
        "kms:ScheduleKeyDeletion": lambda: as_user.schedule_key_deletion(KeyId=key),
    }
    @set_initial_no_auth_action_count(0)
    def ask():
        done = []
        for action, call in calls.items():
            try:
                call()
                done.append(action)
            except ClientError as e:
                assert "AccessDenied" in str(e), e
        return done
    return ask()

json.dump([allowed(policy) for policy in json.load(sys.stdin)], sys.stdout)
`

func TestMotoTakesPolicies(t *testing.T) {
	python := os.Getenv("PIKOKMS_PYTHON")
	if python == "" {
		python = "python3"
	}
	if testing.Short() || exec.Command(python, "-c", "import boto3; from moto import mock_aws; from moto.core import set_initial_no_auth_action_count").Run() != nil {
		t.Skipf("skipped: short mode, or %s has no boto3 and moto 5 (PIKOKMS_PYTHON names a Python that has it)", python)
	}
	const one = "awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	const two = "awskms:///arn:aws:kms:eu-west-1:111122223333:key/4321abcd-12ab-34cd-56ef-1234567890ab"
	var policies []json.RawMessage
	for _, arguments := range [][]string{
		{"--role", "reader", "-k", one},
		{"--role", "writer", "-k", one},
		{"--role", "rewrapper", "-k", one, "--to", two},
		{"--role", "rewrapper", "-k", one, "-k", two},
	} {
		stdout, stderr, _, err := execute(t, append([]string{"keys", "policy"}, arguments...)...)
		require.NoError(t, err, stderr)
		policies = append(policies, json.RawMessage(stdout))
	}
	moto := exec.CommandContext(t.Context(), python, "-c", motoEnforces)
	moto.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test")
	var stderr strings.Builder
	moto.Stderr = &stderr
	given, err := json.Marshal(policies)
	require.NoError(t, err)
	moto.Stdin = bytes.NewReader(given)
	output, err := moto.Output()
	require.NoError(t, err, stderr.String())
	require.JSONEq(t, `[
		["kms:Decrypt"],
		["kms:GenerateDataKey"],
		["kms:Decrypt", "kms:GenerateDataKey"],
		["kms:Decrypt", "kms:Encrypt"]
	]`, string(output))
}
