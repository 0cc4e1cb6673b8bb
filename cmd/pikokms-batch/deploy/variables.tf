variable "name" {
  description = "The function's name."
  type        = string
  default     = "pikokms-batch"
}

variable "zip" {
  description = "The path of the function's zip file, which each release has."
  type        = string
  default     = "pikokms-batch_linux_arm64.zip"
}

variable "data_bucket" {
  description = "The bucket of the objects. The job and the function are in its Region."
  type        = string
}

variable "manifest_bucket" {
  description = "The bucket that holds manifests, such as S3 Inventory's, and takes the jobs' reports."
  type        = string
}

variable "report_prefix" {
  description = "Where in manifest_bucket the jobs' reports go. A job may write nowhere else, so that it changes neither manifests nor other reports."
  type        = string
  default     = "reports/pikokms-batch"
}

variable "manifest_prefix" {
  description = "Where in manifest_bucket the lists go that S3 makes itself for a job, with EnableManifestOutput."
  type        = string
  default     = "manifests/pikokms-batch"
}

variable "key_arn" {
  description = "The ARN of the KMS key that objects are to be under."
  type        = string
}

variable "recovery_keys" {
  description = "KEYs that objects are to be under as well, separated by spaces, such as local:recovery.key.pub for a public key in the zip file."
  type        = string
  default     = ""
}

variable "old_key_arn" {
  description = "The ARN of the KMS key that objects may be under until now, for the job rewrap."
  type        = string
  default     = ""
}

variable "job" {
  description = "What a job does if its user argument \"job\" does not say it: encrypt, rewrap or verify."
  type        = string
  default     = "verify"
  validation {
    condition     = contains(["encrypt", "rewrap", "verify"], var.job)
    error_message = "The job is encrypt, rewrap or verify."
  }
}

variable "bind_object_names" {
  description = "The bucket's name that the hosts of the objects state with BindObjectName; empty if they don't."
  type        = string
  default     = ""
}

variable "bind_unbound" {
  description = "Whether rewrap binds objects that are bound to no name. Whatever lies under a name then becomes its content for good."
  type        = bool
  default     = false
}

variable "allow_piko_v2" {
  description = "Whether rewrap moves, and verify reads, what Piko wrote before pikokms."
  type        = bool
  default     = false
}

variable "allow_unauthenticated_s3_client" {
  description = "Whether rewrap moves, and verify reads, what version 1 of AWS's S3 Encryption Client wrote with AES-CBC, in which a change goes unnoticed."
  type        = bool
  default     = false
}

variable "data_key_cache" {
  description = "How long a data key serves further objects, such as 5m; empty for a data key for each object."
  type        = string
  default     = ""
}

variable "allow_losses" {
  description = "What objects may lose when they are replaced, and are refused otherwise, such as \"acl checksum\"."
  type        = string
  default     = ""
}

variable "requester_pays" {
  description = "Whether the function pays for requests to a Requester Pays bucket of another account."
  type        = bool
  default     = false
}

variable "mb_per_second" {
  description = "How fast objects are taken to be moved, in 10^6 bytes; empty to have it measured."
  type        = string
  default     = ""
}

variable "memory" {
  description = "In MB. A core comes with 1,769. The function takes up to 140 MB, and 6 parts of an upload more for objects over 10 GB."
  type        = number
  default     = 1024
}

variable "concurrency" {
  description = "How many objects are worked on at once. It bounds the rate at which S3 and KMS are asked."
  type        = number
  default     = 500
}
