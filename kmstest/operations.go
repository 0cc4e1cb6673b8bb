package kmstest

import (
	"slices"
	"strings"
	"time"
)

// input holds the members of all operations' requests.
type input struct {
	KeyId       string
	GrantTokens []string
	DryRun      bool

	DryRunModifiers []string

	Plaintext, CiphertextBlob []byte
	EncryptionAlgorithm       string
	EncryptionContext         map[string]string

	PublicKey             []byte
	KeyAgreementAlgorithm string

	KeySpec       string // of a key, or of a data key
	NumberOfBytes *int

	SourceKeyId, DestinationKeyId                             string
	SourceEncryptionAlgorithm, DestinationEncryptionAlgorithm string
	SourceEncryptionContext, DestinationEncryptionContext     map[string]string

	KeyUsage, CustomerMasterKeySpec, Description, Origin string
	MultiRegion                                          bool
	AliasName, TargetKeyId, ReplicaRegion                string
	PendingWindowInDays, RotationPeriodInDays            *int
}

var operations = map[string]func(*exchange) (map[string]any, *failure){
	"CancelKeyDeletion":               (*exchange).cancelKeyDeletion,
	"CreateAlias":                     (*exchange).createAlias,
	"CreateKey":                       (*exchange).createKey,
	"Decrypt":                         (*exchange).decrypt,
	"DeleteAlias":                     (*exchange).deleteAlias,
	"DeriveSharedSecret":              (*exchange).deriveSharedSecret,
	"DescribeKey":                     (*exchange).describeKey,
	"DisableKey":                      (*exchange).disableKey,
	"DisableKeyRotation":              (*exchange).disableKeyRotation,
	"EnableKey":                       (*exchange).enableKey,
	"EnableKeyRotation":               (*exchange).enableKeyRotation,
	"Encrypt":                         (*exchange).encrypt,
	"GenerateDataKey":                 (*exchange).generateDataKey,
	"GenerateDataKeyWithoutPlaintext": (*exchange).generateDataKey,
	"GetKeyRotationStatus":            (*exchange).getKeyRotationStatus,
	"GetPublicKey":                    (*exchange).getPublicKey,
	"ReEncrypt":                       (*exchange).reEncrypt,
	"ReplicateKey":                    (*exchange).replicateKey,
	"RotateKeyOnDemand":               (*exchange).rotateKeyOnDemand,
	"ScheduleKeyDeletion":             (*exchange).scheduleKeyDeletion,
	"UpdateAlias":                     (*exchange).updateAlias,
}

// run carries out the operation.
func (x *exchange) run() (map[string]any, *failure) {
	operation, ok := operations[x.request.Operation]
	if !ok {
		return nil, fail("UnknownOperationException", "kmstest has no operation %q", x.request.Operation)
	}
	if len(x.input.GrantTokens) > maxGrantTokens {
		return nil, tooLong("grantTokens", maxGrantTokens)
	}
	for _, context := range []map[string]string{x.input.EncryptionContext, x.input.SourceEncryptionContext, x.input.DestinationEncryptionContext} {
		if contextSize(context) > maxContext {
			return nil, invalid("The encryption context is larger than %d bytes.", maxContext)
		}
	}
	x.makePrivateKeys()
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	members, failure := operation(x)
	if failure != nil {
		return nil, failure
	}
	return members, nil
}

// maxContext is the largest encryption context, in bytes of its names and values. AWS documents no
// limit; a context larger than this is taken for a mistake.
const maxContext = 8192

func contextSize(context map[string]string) int {
	n := 0
	for name, value := range context {
		n += len(name) + len(value)
	}
	return n
}

// makePrivateKeys makes RSA keys that the call uses for the first time. It takes up to a second, so
// it runs before the server is locked.
func (x *exchange) makePrivateKeys() {
	switch x.request.Operation {
	case "Encrypt", "Decrypt", "ReEncrypt", "GetPublicKey":
	default:
		return
	}
	for _, makePrivate := range x.rsa {
		makePrivate()
	}
}

// lookUpKeys records which keys the call uses. The caller holds the lock.
func (s *Server) lookUpKeys(x *exchange) {
	r, in := &x.request, &x.input
	arn := func(name string) string {
		k, _ := s.lookUp(r.Region, r.Account, name)
		if k == nil {
			return ""
		}
		if k.makePrivate != nil {
			x.rsa = append(x.rsa, k.makePrivate)
		}
		return k.ARN
	}
	sealedUnder := func() string {
		name, _, ok := parseBlob(in.CiphertextBlob)
		if k := s.find(r.Region, name.account, name.keyID); ok && k != nil {
			return k.ARN
		}
		return ""
	}
	if in.TargetKeyId != "" && r.KeyID == "" {
		r.KeyID = in.TargetKeyId
	}
	if r.KeyARN = arn(r.KeyID); r.KeyID == "" && r.Operation == "Decrypt" {
		r.KeyARN = sealedUnder()
	}
	if r.Operation == "ReEncrypt" {
		if r.SourceKeyARN = arn(in.SourceKeyId); in.SourceKeyId == "" {
			r.SourceKeyARN = sealedUnder()
		}
	}
}

// named returns the key that the caller names in any form.
func (x *exchange) named(member, name string) (*key, *failure) {
	if name == "" {
		return nil, missing(member)
	}
	return x.server.lookUp(x.request.Region, x.request.Account, name)
}

// own returns the key that the caller names by ID or ARN. Operations that manage keys accept no
// alias.
func (x *exchange) own(member, name string, states row) (*key, *failure) {
	if strings.Contains(name, "alias/") {
		return nil, fail("NotFoundException", "Invalid keyId '%s'", name)
	}
	k, failure := x.named(member, name)
	if failure != nil {
		return nil, failure
	}
	if k.Account != x.request.Account {
		return nil, fail("AccessDeniedException", "User: arn:aws:iam::%s:user/test is not authorized to perform: kms:%s on resource: %s", x.request.Account, x.request.Operation, k.ARN)
	}
	return k, states.check(k)
}

// dryRun is the answer to a dry run that would have succeeded.
func (x *exchange) dryRun() *failure {
	if !x.input.DryRun {
		return nil
	}
	return fail("DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
}

// ignoresCiphertext reports whether a dry run is about permissions alone, so that its ciphertext is
// not looked at and may be missing (KMS API Reference, Decrypt and ReEncrypt, DryRunModifiers).
func (x *exchange) ignoresCiphertext() bool {
	return x.input.DryRun && slices.Contains(x.input.DryRunModifiers, "IGNORE_CIPHERTEXT")
}

func (x *exchange) describeKey() (map[string]any, *failure) {
	k, failure := x.named("keyId", x.input.KeyId)
	if failure != nil {
		return nil, failure
	}
	return map[string]any{"KeyMetadata": k.metadata()}, nil
}

// metadata returns KeyMetadata.
func (k *key) metadata() map[string]any {
	member, algorithms := k.algorithms()
	m := map[string]any{
		"AWSAccountId": k.Account, "KeyId": k.ID, "Arn": k.ARN, "Description": k.Description,
		"CreationDate": seconds(k.created), "Enabled": k.State == stateEnabled, "KeyState": k.State,
		"KeyUsage": k.Usage, "KeySpec": k.Spec, "CustomerMasterKeySpec": k.Spec,
		"KeyManager": "CUSTOMER", "Origin": k.origin(), "MultiRegion": k.MultiRegion, member: algorithms,
	}
	if k.Spec == symmetric {
		m["CurrentKeyMaterialId"] = k.newest().materialID()
	}
	if k.MultiRegion {
		m["MultiRegionConfiguration"] = k.multiRegionConfiguration()
	}
	if k.State == statePendingDeletion && !k.deletion.IsZero() {
		m["DeletionDate"] = seconds(k.deletion)
	}
	if k.State == statePendingReplicaDeletion {
		m["PendingDeletionWindowInDays"] = k.window
	}
	return m
}

// origin returns a key's Origin, which follows from its state.
func (k *key) origin() string {
	switch k.State {
	case statePendingImport:
		return "EXTERNAL"
	case stateUnavailable:
		return "AWS_CLOUDHSM"
	}
	return "AWS_KMS"
}

func (k *key) multiRegionConfiguration() map[string]any {
	place := func(k *key) map[string]any { return map[string]any{"Arn": k.ARN, "Region": k.Region} }
	kind := "PRIMARY"
	if k.replica {
		kind = "REPLICA"
	}
	replicas := []map[string]any{}
	for _, other := range k.shared.keys[1:] {
		replicas = append(replicas, place(other))
	}
	return map[string]any{"MultiRegionKeyType": kind, "PrimaryKey": place(k.shared.keys[0]), "ReplicaKeys": replicas}
}

// seconds returns a timestamp of AWS's JSON protocol.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
