// Package pikokms encrypts stored objects under a key management service. [New] puts encryption in
// front of a storage, so that an application need not know of it:
//
//	upload    Host ── transformers: compression, then encryption ── Storage
//	download  Host ── the same, as the object itself names them, reversed ── Storage
//
// What is stored is an AWS Encryption SDK message, which AWS's own tools open.
// The file docs/FORMAT.md describes it, and who can see and do what.
//
// Which call for which job:
//
//   - Store, read, list and delete objects: [Host.Put], [Host.Get], [Host.List], [Host.Delete].
//   - Learn an object's size and time without asking a key service: [Host.Stat].
//   - Store pairs that a key service's policies and logs can use: [Host.PutWith].
//   - Read parts of an object, or serve it over HTTP: [Host.Open], [Host.FS].
//   - Encrypt a string, for a column of a database: [Host.Encrypt], [Host.Decrypt]. A host for
//     strings alone needs no storage.
//   - Encrypt many strings with one call of the key service: [Host.CryptoService].
//   - Move to another key: [Host.SetDefaultCryptoProvider], then [Host.Rewrap] for each object and
//     [Host.ReEncrypt] for each string. To move to the newest version of a key, rewrap the objects
//     that are not [Host.IsCurrent].
//   - Bring in plain objects, objects that Piko encrypted, or messages of AWS's tools: read them
//     with [AllowPlaintext], [AllowPikoV2] or [AllowForeignMessages], and move them with
//     [Host.Migrate].
//   - Compress before encrypting: [WithEnabledTransformers]. Add a transformer: [WithTransformer].
//   - Refuse an object that was swapped for another one: [BindObjectName].
//   - Store in a folder: package folderstorage; in S3: package s3storage; in other buckets: package
//     blobstorage; elsewhere: implement [Storage].
//   - Encrypt and decrypt objects for a storage that the program drives itself:
//     [Host.EncryptObject], [Host.DecryptObject], [Host.OpenObject], [Host.StatedSize].
//   - Write for several recipients, or with signatures: [WithMessages].
//
// Keys come from packages provider/awskms and provider/local, among others. Package message
// encrypts and decrypts streams where there is no storage.
package pikokms
