output "function_arn" {
  description = "What a job invokes."
  value       = aws_lambda_function.this.arn
}

output "job_role_arn" {
  description = "The role of a job."
  value       = aws_iam_role.job.arn
}
