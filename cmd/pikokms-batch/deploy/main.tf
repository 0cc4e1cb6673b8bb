# The same as template.yaml, for Terraform.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.32"
    }
  }
}

data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

locals {
  objects   = "arn:${data.aws_partition.this.partition}:s3:::${var.data_bucket}"
  manifests = "arn:${data.aws_partition.this.partition}:s3:::${var.manifest_bucket}"
}

resource "aws_cloudwatch_log_group" "function" {
  name              = "/pikokms-batch/${var.name}"
  retention_in_days = 90
}

data "aws_iam_policy_document" "assumed_by_lambda" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "function" {
  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.function.arn}:*"]
  }
  statement {
    sid       = "Bucket" # a missing object is told from a forbidden one; whether objects may have locks and access control lists
    actions   = ["s3:ListBucket", "s3:GetBucketObjectLockConfiguration", "s3:GetBucketOwnershipControls"]
    resources = [local.objects]
  }
  statement {
    sid = "Read"
    actions = [
      "s3:GetObject",
      "s3:GetObjectVersion",
      "s3:GetObjectTagging",
      "s3:GetObjectVersionTagging",
      "s3:GetObjectRetention",
      "s3:GetObjectLegalHold",
      "s3:GetObjectAcl",
      "s3:GetObjectVersionAcl",
    ]
    resources = ["${local.objects}/*"]
  }
  statement {
    sid = "Write"
    actions = [
      "s3:PutObject",
      "s3:PutObjectTagging",
      "s3:PutObjectRetention",
      "s3:PutObjectLegalHold",
      "s3:AbortMultipartUpload",
    ]
    resources = ["${local.objects}/*"]
  }
  statement {
    sid       = "Key"
    actions   = [var.recovery_keys == "" ? "kms:GenerateDataKey" : "kms:Encrypt", "kms:Decrypt"]
    resources = [var.key_arn]
  }
  dynamic "statement" {
    for_each = var.old_key_arn == "" ? [] : [var.old_key_arn]
    content {
      sid       = "OldKey"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role" "function" {
  name_prefix        = "${var.name}-"
  assume_role_policy = data.aws_iam_policy_document.assumed_by_lambda.json
}

resource "aws_iam_role_policy" "function" {
  name   = "pikokms-batch"
  role   = aws_iam_role.function.id
  policy = data.aws_iam_policy_document.function.json
}

resource "aws_lambda_function" "this" {
  function_name                  = var.name
  description                    = "Encrypts, rewraps or verifies an object of S3 with pikokms, for S3 Batch Operations."
  runtime                        = "provided.al2023"
  architectures                  = ["arm64"]
  handler                        = "bootstrap"
  filename                       = var.zip
  source_code_hash               = filebase64sha256(var.zip)
  role                           = aws_iam_role.function.arn
  timeout                        = 900
  memory_size                    = var.memory
  reserved_concurrent_executions = var.concurrency

  logging_config { # without Lambda's own lines for each invocation
    log_group        = aws_cloudwatch_log_group.function.name
    log_format       = "JSON"
    system_log_level = "WARN"
  }

  environment {
    variables = {
      PIKOKMS_JOB                             = var.job
      PIKOKMS_KEY                             = "awskms:///${var.key_arn}"
      PIKOKMS_RECOVERY_KEYS                   = var.recovery_keys
      PIKOKMS_OLD_KEYS                        = var.old_key_arn == "" ? "" : "awskms:///${var.old_key_arn}"
      PIKOKMS_BIND_OBJECT_NAMES               = var.bind_object_names
      PIKOKMS_BIND_UNBOUND                    = tostring(var.bind_unbound)
      PIKOKMS_ALLOW_PIKO_V2                   = tostring(var.allow_piko_v2)
      PIKOKMS_ALLOW_UNAUTHENTICATED_S3_CLIENT = tostring(var.allow_unauthenticated_s3_client)
      PIKOKMS_ALLOW_LOSSES                    = var.allow_losses
      PIKOKMS_REQUESTER_PAYS                  = tostring(var.requester_pays)
      PIKOKMS_DATA_KEY_CACHE                  = var.data_key_cache
      PIKOKMS_MB_PER_SECOND                   = var.mb_per_second
    }
  }
}

data "aws_iam_policy_document" "assumed_by_jobs" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["batchoperations.s3.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.this.account_id]
    }
  }
}

data "aws_iam_policy_document" "job" {
  statement {
    sid       = "Invoke"
    actions   = ["lambda:InvokeFunction"]
    resources = [aws_lambda_function.this.arn, "${aws_lambda_function.this.arn}:*"]
  }
  statement {
    sid       = "Manifest"
    actions   = ["s3:GetObject", "s3:GetObjectVersion"]
    resources = ["${local.manifests}/*"]
  }
  statement {
    sid       = "MakeManifest" # --manifest-generator
    actions   = ["s3:PutInventoryConfiguration"]
    resources = [local.objects]
  }
  statement {
    sid       = "Report"
    actions   = ["s3:PutObject"]
    resources = ["${local.manifests}/${var.report_prefix}/*", "${local.manifests}/${var.manifest_prefix}/*"]
  }
}

resource "aws_iam_role" "job" {
  name_prefix        = "${var.name}-job-"
  assume_role_policy = data.aws_iam_policy_document.assumed_by_jobs.json
}

resource "aws_iam_role_policy" "job" {
  name   = "pikokms-batch-job"
  role   = aws_iam_role.job.id
  policy = data.aws_iam_policy_document.job.json
}
