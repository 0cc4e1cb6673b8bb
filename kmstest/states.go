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
		stateDisabled: keyDisabled, statePendingDeletion: keyPendingDeletion, statePendingReplicaDeletion: keyPendingDeletion,
		statePendingImport: keyPendingImport, stateUnavailable: keyUnavailable, stateCreating: keyCreating,
	}
	toggle = row{
		statePendingDeletion: keyPendingDeletion, statePendingReplicaDeletion: keyPendingDeletion,
		statePendingImport: keyPendingImport, stateCreating: keyCreating, stateUpdating: keyUpdating,
	}
	rotation = row{
		stateDisabled: keyDisabled, statePendingDeletion: keyPendingDeletion, statePendingReplicaDeletion: keyPendingDeletion,
		statePendingImport: keyExternal, stateUnavailable: keyCustomStore, stateCreating: keyCreating, stateUpdating: keyUpdating,
	}
	onDemand = row{
		stateDisabled: keyDisabled, statePendingDeletion: keyPendingDeletion, statePendingReplicaDeletion: keyPendingDeletion,
		statePendingImport: keyPendingImport, stateUnavailable: keyCustomStore, stateCreating: keyCreating, stateUpdating: keyUpdating,
	}
	rotationStatus = row{statePendingImport: keyExternal, stateUnavailable: keyCustomStore, stateCreating: keyCreating}
	naming         = row{
		statePendingDeletion: keyPendingDeletion, statePendingReplicaDeletion: keyPendingDeletion, stateCreating: keyCreating,
	}
	schedule = row{
		statePendingDeletion: keyPendingDeletion, statePendingReplicaDeletion: keyPendingDeletion,
		stateCreating: keyCreating, stateUpdating: keyUpdating,
	}
	cancel = row{
		stateEnabled: keyNotPendingDeletion, stateDisabled: keyNotPendingDeletion, statePendingImport: keyNotPendingDeletion,
		stateUnavailable: keyNotPendingDeletion, stateCreating: keyNotPendingDeletion, stateUpdating: keyNotPendingDeletion,
	}
	replication = row{
		stateDisabled: keyDisabled, statePendingDeletion: keyPendingDeletion, statePendingReplicaDeletion: keyPendingDeletion,
		statePendingImport: keyPendingImport, stateUnavailable: keyUnavailable, stateCreating: keyCreating, stateUpdating: keyUpdating,
	}
)

type row map[string]verdict

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
