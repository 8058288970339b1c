# The coordinator retries and reports. An alarm informs the people who look after the stack. A metric-math alarm over all functions
# would be billed by metric as well, and would not name the function.
resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = var.alarms ? {
    Errors    = "An invocation failed: see the log group /aws/lambda/${var.name}"
    Throttles = "Lambda refused invocations: the account's concurrency, or the function's reserved concurrency, is used up"
  } : {}

  alarm_name        = "${var.name}-${lower(each.key)}"
  alarm_description = each.value

  namespace   = "AWS/Lambda"
  metric_name = each.key
  dimensions  = { FunctionName = var.name }

  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  # Without queries there is no data.
  treat_missing_data = "notBreaching"

  alarm_actions = var.alarm_topic_arns
  tags          = var.tags
}
