// Package pikokms encrypts stored objects under a key management service. [New] puts encryption in
// front of a storage, so that an application need not know of it:
//
//	upload    Host ── transformers: compression, then encryption ── Storage
//	download  Host ── the same, as the object itself names them, reversed ── Storage
//
// What is stored is an AWS Encryption SDK message, which AWS's own tools open.
// The file docs/FORMAT.md tells what it holds and who can see and do what.
//
// Which call for which job:
//
//   - Store, read, list and delete objects: [Host.Put], [Host.Get], [Host.List], [Host.Delete].
//   - Read parts of an object, or serve it over HTTP: [Host.Open], [Host.FS].
//   - Encrypt a string, for a column of a database: [Host.Encrypt], [Host.Decrypt].
//   - Encrypt many strings with one call of the key service: [Host.CryptoService].
//   - Go over to another key: [Host.RotateKey], then [Host.Rewrap] for objects and
//     [Host.ReEncrypt] for strings that are to be moved. To the newest version of a key goes what
//     is not [Host.IsCurrent].
//   - Bring in objects from before encryption, from before pikokms, or of AWS's tools: read them
//     with [AllowPlaintext], [AllowPikoV2] or [AllowForeignMessages], and move them with
//     [Host.Migrate].
//   - Compress before encrypting: [WithEnabledTransformers]; own transformers: [WithTransformer].
//   - Refuse an object that was swapped for another one: [BindObjectName].
//   - Store in a folder: [NewFolder]; in S3: package s3storage; in other buckets: package
//     blobstorage; elsewhere: implement [Storage].
//   - Drive a storage by other means: [Host.EncryptObject], [Host.DecryptObject],
//     [Host.OpenObject], [Host.StatedSize].
//   - Use transformers without a Host: [NewRegistry], [NewCryptoTransformer].
//
// Keys come from packages provider/awskms and provider/local, among others. Package message
// encrypts and decrypts streams where there is no storage.
package pikokms
