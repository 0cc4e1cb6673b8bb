package kmstest

import (
	"strings"
	"time"
)

const (
	day = 24 * time.Hour

	minWindow, maxWindow = 7, 30 // days; the longest is the default (KMS API Reference, ScheduleKeyDeletion)

	minPeriod, defaultPeriod, maxPeriod = 90, 365, 2560 // days (KMS API Reference, EnableKeyRotation)

	maxOnDemandRotations = 25 // KMS API Reference, RotateKeyOnDemand
)

func (x *exchange) createKey() (map[string]any, *failure) {
	in := &x.input
	setDefault(&in.KeySpec, in.CustomerMasterKeySpec)
	if in.KeySpec != "" && in.KeySpec != symmetric && in.KeyUsage == "" {
		return nil, invalid("You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.")
	}
	k, failure := x.server.create(Key{
		Account: x.request.Account, Region: x.request.Region, Description: in.Description,
		Spec: in.KeySpec, Usage: in.KeyUsage, MultiRegion: in.MultiRegion, State: stateOfOrigin[in.Origin],
	})
	if failure != nil {
		return nil, failure
	}
	return map[string]any{"KeyMetadata": k.metadata()}, nil
}

// stateOfOrigin holds the states of new keys that are not enabled.
var stateOfOrigin = map[string]string{"EXTERNAL": statePendingImport}

func (x *exchange) createAlias() (map[string]any, *failure) {
	k, failure := x.own("targetKeyId", x.input.TargetKeyId, naming)
	if failure != nil {
		return nil, failure
	}
	return nil, x.server.addAlias(x.input.AliasName, k)
}

// addAlias gives a key a further name.
func (s *Server) addAlias(alias string, k *key) *failure {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_-"
	name, ok := strings.CutPrefix(alias, "alias/")
	switch {
	case strings.Trim(alias, letters+":") != "":
		return invalid("1 validation error detected: Value '%s' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$", alias)
	case !ok:
		return invalid("Alias must start with the prefix \"alias/\". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html")
	case name == "" || strings.Trim(name, letters) != "":
		return fail("InvalidAliasNameException", "%s contains invalid characters for an alias", alias)
	case strings.HasPrefix(name, "aws/"):
		return fail("NotAuthorizedException", "")
	}
	full := aliasName{k.Region, k.Account, alias}
	if s.aliases[full] != nil {
		return fail("AlreadyExistsException", "An alias with the name %s already exists", arnOf(partitionOf(k.Region), k.Region, k.Account, alias))
	}
	s.aliases[full] = k
	return nil
}

func (x *exchange) updateAlias() (map[string]any, *failure) {
	k, failure := x.own("targetKeyId", x.input.TargetKeyId, naming)
	if failure != nil {
		return nil, failure
	}
	name, failure := x.alias()
	if failure != nil {
		return nil, failure
	}
	if old := x.server.aliases[name]; old.Usage != k.Usage || (old.Spec == symmetric) != (k.Spec == symmetric) {
		return nil, invalid("Alias %s cannot be moved to a key of another type or usage.", x.input.AliasName)
	}
	x.server.aliases[name] = k
	return nil, nil
}

func (x *exchange) deleteAlias() (map[string]any, *failure) {
	name, failure := x.alias()
	if failure != nil {
		return nil, failure
	}
	delete(x.server.aliases, name)
	return nil, nil
}

// alias returns the alias that the caller names, if it exists.
func (x *exchange) alias() (aliasName, *failure) {
	name := aliasName{x.request.Region, x.request.Account, x.input.AliasName}
	if x.server.aliases[name] == nil {
		return name, fail("NotFoundException", "Alias %s is not found.", arnOf("aws", name.region, name.account, name.name))
	}
	return name, nil
}

func (x *exchange) enableKey() (map[string]any, *failure)  { return x.toggle(stateEnabled) }
func (x *exchange) disableKey() (map[string]any, *failure) { return x.toggle(stateDisabled) }

func (x *exchange) toggle(state string) (map[string]any, *failure) {
	k, failure := x.own("keyId", x.input.KeyId, toggle)
	if failure != nil {
		return nil, failure
	}
	if k.State != stateUnavailable { // in that state the call succeeds without effect
		k.State = state
	}
	return nil, nil
}

func (x *exchange) scheduleKeyDeletion() (map[string]any, *failure) {
	k, failure := x.own("keyId", x.input.KeyId, schedule)
	if failure != nil {
		return nil, failure
	}
	k.window = maxWindow
	if days := x.input.PendingWindowInDays; days != nil {
		k.window = *days
	}
	if k.window < minWindow || k.window > maxWindow {
		return nil, invalid("PendingWindowInDays must be between %d and %d (inclusive)", minWindow, maxWindow)
	}
	members := map[string]any{"KeyId": k.ARN, "PendingWindowInDays": k.window}
	if k == k.shared.keys[0] && len(k.shared.keys) > 1 {
		k.State = statePendingReplicaDeletion
	} else {
		k.State, k.deletion = statePendingDeletion, time.Now().Add(time.Duration(k.window)*day)
		members["DeletionDate"] = seconds(k.deletion)
	}
	members["KeyState"] = k.State
	return members, nil
}

// replicasGone starts the waiting period of a primary key once its last replica is deleted.
func (k *key) replicasGone() {
	if k.State == statePendingReplicaDeletion {
		k.State, k.deletion = statePendingDeletion, time.Now().Add(time.Duration(k.window)*day)
	}
}

func (x *exchange) cancelKeyDeletion() (map[string]any, *failure) {
	k, failure := x.own("keyId", x.input.KeyId, cancel)
	if failure != nil {
		return nil, failure
	}
	k.State, k.deletion = stateDisabled, time.Time{}
	return map[string]any{"KeyId": k.ARN}, nil
}

func (x *exchange) replicateKey() (map[string]any, *failure) {
	primary, failure := x.own("keyId", x.input.KeyId, replication)
	if failure != nil {
		return nil, failure
	}
	if x.input.ReplicaRegion == "" {
		return nil, missing("replicaRegion")
	}
	k, failure := x.server.replicate(primary, x.input.ReplicaRegion)
	if failure != nil {
		return nil, failure
	}
	k.Description = x.input.Description
	return map[string]any{"ReplicaKeyMetadata": k.metadata(), "ReplicaPolicy": "", "ReplicaTags": []string{}}, nil
}

// rotatable returns the key whose rotation the caller asks about. Only symmetric keys rotate.
func (x *exchange) rotatable(states row) (*key, *failure) {
	k, failure := x.own("keyId", x.input.KeyId, states)
	if failure != nil {
		return nil, failure
	}
	if k.Spec != symmetric {
		return nil, fail("UnsupportedOperationException", "%s key spec is %s, which does not rotate.", k.ARN, k.Spec)
	}
	return k, nil
}

// rotating returns the key whose rotation the caller changes. For a replica, it is the primary key.
func (x *exchange) rotating(states row) (*key, *failure) {
	k, failure := x.rotatable(states)
	if failure == nil && k.replica {
		return nil, fail("UnsupportedOperationException", "%s is a replica key, whose rotation is that of its primary key.", k.ARN)
	}
	return k, failure
}

func (x *exchange) enableKeyRotation() (map[string]any, *failure) {
	k, failure := x.rotating(rotation)
	if failure != nil {
		return nil, failure
	}
	period := defaultPeriod
	if days := x.input.RotationPeriodInDays; days != nil {
		period = *days
	}
	if period < minPeriod || period > maxPeriod {
		return nil, invalid("1 validation error detected: Value '%d' at 'rotationPeriodInDays' failed to satisfy constraint: Member must have value between %d and %d", period, minPeriod, maxPeriod)
	}
	k.rotates, k.period = true, period
	return nil, nil
}

func (x *exchange) disableKeyRotation() (map[string]any, *failure) {
	k, failure := x.rotating(rotation)
	if failure != nil {
		return nil, failure
	}
	k.rotates = false
	return nil, nil
}

func (x *exchange) getKeyRotationStatus() (map[string]any, *failure) {
	k, failure := x.rotatable(rotationStatus)
	if failure != nil {
		return nil, failure
	}
	primary := k.shared.keys[0]
	rotates := primary.rotates && k.State != statePendingDeletion && k.State != statePendingReplicaDeletion
	members := map[string]any{"KeyId": k.ARN, "KeyRotationEnabled": rotates}
	if rotates {
		members["RotationPeriodInDays"] = primary.period
		members["NextRotationDate"] = seconds(primary.created.Add(time.Duration(primary.period) * day))
	}
	return members, nil
}

func (x *exchange) rotateKeyOnDemand() (map[string]any, *failure) {
	k, failure := x.rotating(onDemand)
	if failure != nil {
		return nil, failure
	}
	if len(k.shared.materials) > maxOnDemandRotations {
		return nil, fail("LimitExceededException", "%s has been rotated on demand %d times, which is the limit.", k.ARN, maxOnDemandRotations)
	}
	k.shared.materials = append(k.shared.materials, newMaterial())
	return map[string]any{"KeyId": k.ARN}, nil
}
