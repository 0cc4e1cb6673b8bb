package kmstest

// verdict is whether a key's state allows an operation, and the error if it does not.
type verdict int

const (
	allowed verdict = iota
	keyDisabled
	keyPendingDeletion
	keyNotPendingDeletion
	keyPendingImport
	keyExternal
	keyCustomStore
	keyUnavailable
	keyCreating
	keyUpdating
)

// use, toggle, rotation and the others are rows of AWS's table (AWS KMS Developer Guide, "Key
// states of AWS KMS keys"), each for the operations that share it. States that a row leaves out are
// allowed. Where the table lists two errors, the row has the one that KMS answers with.
var (
	use = row{
		Disabled: keyDisabled, PendingDeletion: keyPendingDeletion, PendingReplicaDeletion: keyPendingDeletion,
		PendingImport: keyPendingImport, Unavailable: keyUnavailable, Creating: keyCreating,
	}
	toggle = row{
		PendingDeletion: keyPendingDeletion, PendingReplicaDeletion: keyPendingDeletion,
		PendingImport: keyPendingImport, Creating: keyCreating, Updating: keyUpdating,
	}
	rotation = row{
		Disabled: keyDisabled, PendingDeletion: keyPendingDeletion, PendingReplicaDeletion: keyPendingDeletion,
		PendingImport: keyExternal, Unavailable: keyCustomStore, Creating: keyCreating, Updating: keyUpdating,
	}
	onDemand = row{
		Disabled: keyDisabled, PendingDeletion: keyPendingDeletion, PendingReplicaDeletion: keyPendingDeletion,
		PendingImport: keyPendingImport, Unavailable: keyCustomStore, Creating: keyCreating, Updating: keyUpdating,
	}
	rotationStatus = row{PendingImport: keyExternal, Unavailable: keyCustomStore, Creating: keyCreating}
	naming         = row{
		PendingDeletion: keyPendingDeletion, PendingReplicaDeletion: keyPendingDeletion, Creating: keyCreating,
	}
	schedule = row{
		PendingDeletion: keyPendingDeletion, PendingReplicaDeletion: keyPendingDeletion,
		Creating: keyCreating, Updating: keyUpdating,
	}
	cancel = row{
		Enabled: keyNotPendingDeletion, Disabled: keyNotPendingDeletion, PendingImport: keyNotPendingDeletion,
		Unavailable: keyNotPendingDeletion, Creating: keyNotPendingDeletion, Updating: keyNotPendingDeletion,
	}
	replication = row{
		Disabled: keyDisabled, PendingDeletion: keyPendingDeletion, PendingReplicaDeletion: keyPendingDeletion,
		PendingImport: keyPendingImport, Unavailable: keyUnavailable, Creating: keyCreating, Updating: keyUpdating,
	}
)

type row map[State]verdict

// check returns the error if the key's state forbids the operation.
func (r row) check(k *key) *failure {
	const state = "KMSInvalidStateException"
	switch r[k.State] {
	case keyDisabled:
		return fail("DisabledException", "%s is disabled.", k.ARN)
	case keyPendingDeletion:
		return fail(state, "%s is pending deletion.", k.ARN)
	case keyNotPendingDeletion:
		return fail(state, "%s is not pending deletion.", k.ARN)
	case keyPendingImport:
		return fail(state, "%s is pending import.", k.ARN)
	case keyExternal:
		return fail("UnsupportedOperationException", "%s origin is EXTERNAL which is not valid for this operation.", k.ARN)
	case keyCustomStore:
		return fail("UnsupportedOperationException", "%s is in a custom key store, which is not valid for this operation.", k.ARN)
	case keyUnavailable:
		return fail(state, "%s is unavailable.", k.ARN)
	case keyCreating:
		return fail(state, "%s is creating.", k.ARN)
	case keyUpdating:
		return fail(state, "%s is updating.", k.ARN)
	}
	return nil
}
