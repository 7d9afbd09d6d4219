#include "origin/http_errors.h"

#include <fmt/format.h>

#include <algorithm>

#include "origin/azure_xml.h"
#include "origin/http_date.h"

namespace shoal {

namespace {

using std::chrono::milliseconds;
constexpr milliseconds kRetryAfterMax = std::chrono::minutes(10);
// Azure refuses requests whose date is further off than this.
constexpr Duration kClockSkewMax = std::chrono::minutes(14);

struct Row {
  int status;             // 0: any
  std::string_view code;  // empty: any
  Code meaning;
  std::string_view reason;
  std::string_view next;
};

// First match wins. {a} is the account, {c} the container.
constexpr Row kRows[] = {
    {404, "ContainerNotFound", Code::kNotFound, "container '{c}' does not exist in account '{a}'",
     "create it (az storage container create --account-name {a} --name {c}) or correct the name"},
    {0, "ContainerBeingDeleted", Code::kUnavailable, "container '{c}' is being deleted",
     "wait until that has ended"},
    {0, "ContainerDisabled", Code::kPermissionDenied, "container '{c}' is disabled",
     "enable it in the portal"},
    {0, "AccountIsDisabled", Code::kPermissionDenied, "account '{a}' is disabled",
     "enable it in the portal"},
    {404, "ResourceNotFound", Code::kNotFound, "it does not exist, or anonymous access is off",
     "check the name and the credentials"},
    {404, "", Code::kNotFound, "it does not exist", ""},
    {409, "BlobAlreadyExists", Code::kAlreadyExists, "it exists already", ""},
    {409, "BlobImmutableDueToPolicy", Code::kPermissionDenied,
     "an immutability policy forbids changing it", "write under another name"},
    {409, "SnapshotsPresent", Code::kNotSupported, "it has snapshots",
     "remove its snapshots first"},
    {409, "PendingCopyOperation", Code::kBusy, "a copy onto it is still running", "try later"},
    {409, "BlobArchived", Code::kNotSupported, "it is in the archive tier",
     "rehydrate it to the hot or cool tier"},
    {409, "BlobBeingRehydrated", Code::kBusy, "it is being rehydrated from the archive tier",
     "try again in some hours"},
    {409, "BlockCountExceedsLimit", Code::kTooLarge, "it has too many uncommitted blocks",
     "commit it, or wait 7 days until they are dropped"},
    {0, "LeaseIdMissing", Code::kBusy, "somebody holds a lease on it",
     "wait, or break the lease (az storage blob lease break)"},
    {0, "BlobImmutableDueToLegalHold", Code::kPermissionDenied, "it is under legal hold",
     "write under another name"},
    {409, "", Code::kConflict, "it is in a state that forbids this", ""},
    {412, "", Code::kConflict, "somebody else changed it (the condition does not hold)", ""},
    {304, "", Code::kConflict, "the condition does not hold", ""},
    {416, "", Code::kInvalidArgument, "the range lies past its end", ""},
    {400, "InvalidBlockList", Code::kNotFound,
     "some of the blocks are not staged any more (somebody else committed)", "stage them again"},
    {400, "InvalidBlobOrBlock", Code::kInvalidArgument,
     "its uncommitted blocks have ids of another length (another tool is uploading to it)",
     "let that upload end, or remove the object"},
    {400, "OutOfRangeInput", Code::kInvalidArgument, "a value is out of range", ""},
    {400, "InvalidResourceName", Code::kInvalidArgument, "the name is not allowed", "rename it"},
    {400, "Md5Mismatch", Code::kUnavailable, "the bytes changed on their way", ""},
    {400, "Crc64Mismatch", Code::kUnavailable, "the bytes changed on their way", ""},
    {413, "", Code::kTooLarge, "the request is too large", "use smaller blocks"},
    {403, "AuthorizationPermissionMismatch", Code::kPermissionDenied,
     "these credentials do not allow it",
     "grant the SAS token rwdl on container '{c}', or the identity Storage Blob Data Contributor"},
    {403, "AuthorizationFailure", Code::kPermissionDenied,
     "account '{a}' refuses this client (its network rules or the credentials' rights)",
     "allow this address in the account's networking page, or use other credentials"},
    {403, "AuthorizationProtocolMismatch", Code::kPermissionDenied,
     "the SAS token does not allow this protocol", "use https"},
    {403, "AuthorizationSourceIPMismatch", Code::kPermissionDenied,
     "the SAS token does not allow this address", "make a token without --ip"},
    {403, "AuthorizationResourceTypeMismatch", Code::kPermissionDenied,
     "the SAS token is for another kind of resource", "make it with --resource-types sco"},
    {403, "AuthorizationServiceMismatch", Code::kPermissionDenied,
     "the SAS token is not for the Blob service", "make it with --services b"},
    {403, "InsufficientAccountPermissions", Code::kPermissionDenied,
     "the account does not allow this operation", "check the account's settings"},
    {403, "KeyBasedAuthenticationNotPermitted", Code::kUnauthenticated,
     "account '{a}' does not accept account keys", "use a SAS token"},
    {400, "InvalidHeaderValue", Code::kNotSupported, "a header is not accepted", ""},
    {400, "UnsupportedHeader", Code::kNotSupported, "a header is not accepted", ""},
    {501, "", Code::kNotSupported, "the origin does not offer this", ""},
    {405, "", Code::kNotSupported, "the origin does not offer this", ""},
    {429, "", Code::kThrottled, "account '{a}' asks to slow down", ""},
    {503, "ServerBusy", Code::kThrottled, "account '{a}' asks to slow down", ""},
    {503, "", Code::kThrottled, "the origin asks to slow down", ""},
    {500, "OperationTimedOut", Code::kUnavailable, "the origin did not finish in time", ""},
    {408, "", Code::kUnavailable, "the origin did not get the request in time", ""},
};

std::string fill(std::string_view text, const ErrorPlace& place) {
  std::string out(text);
  for (auto [mark, value] :
       {std::pair<std::string_view, const std::string*>("{a}", &place.account),
        std::pair<std::string_view, const std::string*>("{c}", &place.container)}) {
    for (size_t at = out.find(mark); at != std::string::npos; at = out.find(mark, at)) {
      out.replace(at, mark.size(), *value);
      at += value->size();
    }
  }
  return out;
}

// 401, and 403 AuthenticationFailed: key, token or clock?
Row authentication_row(const HttpResponse& response, const ErrorPlace& place, WallTime now) {
  if (const std::string* date = response.header("date")) {
    std::optional<WallTime> theirs = parse_http_date(*date);
    if (theirs && (now - *theirs > kClockSkewMax || *theirs - now > kClockSkewMax)) {
      return {0, "", Code::kUnauthenticated, "this machine's clock differs by over 14 minutes",
              "set the clock (timedatectl, chronyc tracking)"};
    }
  }
  if (place.uses_sas) {
    return {0, "", Code::kUnauthenticated, "the SAS token has expired or is wrong",
            "check its se= time and make a new one (az storage container generate-sas "
            "--account-name {a} --name {c})"};
  }
  if (place.anonymous) {
    return {0, "", Code::kUnauthenticated, "the origin wants credentials and none were given",
            "set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN"};
  }
  return {0, "", Code::kUnauthenticated, "the key for account '{a}' is wrong",
          "check AZURE_STORAGE_KEY (az storage account keys list --account-name {a})"};
}

Row row_of(const HttpResponse& response, const std::string& code, const ErrorPlace& place,
           WallTime now) {
  bool unauthenticated = response.status == 401 ||
                         (response.status == 403 &&
                          (code == "AuthenticationFailed" || code == "InvalidAuthenticationInfo" ||
                           code == "NoAuthenticationInformation"));
  if (unauthenticated) return authentication_row(response, place, now);
  for (const Row& row : kRows) {
    if ((row.status == 0 || row.status == response.status) &&
        (row.code.empty() || row.code == code)) {
      return row;
    }
  }
  if (response.status == 403) {
    return {0, "", Code::kPermissionDenied, "the origin does not allow it",
            "check the credentials' rights on container '{c}'"};
  }
  if (response.status >= 500) {
    return {0, "", Code::kUnavailable, "the origin failed", ""};
  }
  if (response.status >= 300 && response.status < 400) {
    return {0, "", Code::kInvalidArgument, "the origin answers with a redirect",
            "correct the endpoint"};
  }
  return {0, "", Code::kInvalidArgument, "the origin refused the request", ""};
}

}  // namespace

std::string azure_error_code(const HttpResponse& response) {
  if (const std::string* code = response.header("x-ms-error-code")) return *code;
  return parse_error_body(response.body).code;
}

milliseconds retry_after_of(const HttpResponse& response, WallTime now) {
  for (const char* name : {"x-ms-retry-after-ms", "retry-after-ms"}) {
    if (const std::string* text = response.header(name)) {
      if (Result<uint64_t> value = parse_decimal(*text)) {
        auto count = std::min<uint64_t>(*value, static_cast<uint64_t>(kRetryAfterMax.count()));
        return milliseconds(count);
      }
    }
  }
  const std::string* text = response.header("retry-after");
  if (text == nullptr) return milliseconds(0);
  if (Result<uint64_t> seconds = parse_decimal(*text)) {
    auto count = std::min<uint64_t>(*seconds, static_cast<uint64_t>(kRetryAfterMax.count()) / 1000);
    return milliseconds(count * 1000);
  }
  if (std::optional<WallTime> until = parse_http_date(*text)) {
    auto wait = std::chrono::ceil<milliseconds>(*until - now);
    return std::clamp(wait, milliseconds(0), kRetryAfterMax);
  }
  return milliseconds(0);
}

Error azure_error(const HttpResponse& response, const ErrorPlace& place, WallTime now) {
  std::string code = azure_error_code(response);
  Row row = row_of(response, code, place, now);
  std::string message = fmt::format("{}: {} (HTTP {}{}{}", place.what, fill(row.reason, place),
                                    response.status, code.empty() ? "" : " ", code);
  bool unexplained = row.next.empty() && row.meaning == Code::kInvalidArgument;
  if (unexplained) {
    std::string detail = parse_error_body(response.body).message;
    if (!detail.empty()) message += ": " + detail;
  }
  message += ")";
  if (!row.next.empty()) message += "; " + fill(row.next, place);
  return Error(row.meaning, std::move(message)).with_retry_after(retry_after_of(response, now));
}

}  // namespace shoal
