//! Every reason a grant opens nothing.

use super::super::refusals::refusals;

refusals! {
    /// Why a grant, or one key asked for under it, is refused.
    GrantRefusal:
    TooLong, "too_long", "the grant is longer than 8192 bytes; name fewer chats";
    NotCompact, "not_compact", "the grant is not three base64url parts joined by two dots";
    NotBase64url, "not_base64url", "a part of the grant is not canonical base64url without padding";
    Header, "header", "the grant's header has not exactly alg, typ and kid in the form documented";
    Critical, "critical", "the grant's header has crit, and no extension is understood here";
    Algorithm, "algorithm", "the grant's alg is not EdDSA; no other is accepted, none least of all";
    Type, "type", "the grant's typ is not quorate-grant+jwt";
    Payload, "payload", "the grant's payload has not exactly the documented claims in the form documented";
    Actions, "actions", "the grant's act must name read, write or both, each once";
    Chats, "chats", "the grant must name at most 64 chats, each once, with from no greater than to";
    Ceiling, "ceiling", "the grant's ceiling is 0; it must allow a key at least";
    Lifetime, "lifetime", "the grant's exp must be 1 to 900 seconds after its nbf";
    SignatureForm, "signature_form", "the grant's signature is not 64 bytes";
    OtherDeployment, "other_deployment", "the grant is for another deployment";
    OtherHome, "other_home", "the grant is for another home than the one that shows it";
    DeviceUnknown, "device_unknown", "the device is not one of the account, as far as this custodian was told";
    DeviceExpired, "device_expired", "the device's record ran out; renew it with its account";
    DeviceRevoked, "device_revoked", "the device was revoked, for ever";
    Signature, "signature", "the grant's signature does not hold for its device";
    NotYetValid, "not_yet_valid", "the grant's nbf lies ahead of the custodian's clock; check the device's clock";
    Expired, "expired", "the grant's time is over; sign a new one";
    ActionNotGranted, "action_not_granted", "the grant does not allow what the keys are asked for";
    IdReused, "id_reused", "the device signed another grant under this jti; draw a fresh one";
    ChatNotGranted, "chat_not_granted", "the grant does not name the key's chat";
    EpochBeforeRange, "epoch_before_range", "the key's epoch lies before the range granted for its chat";
    EpochAfterRange, "epoch_after_range", "the key's epoch lies after the range granted for its chat";
    ChatUnknown, "chat_unknown", "this custodian was not told of the chat's genesis";
    ChatForked, "chat_forked", "two histories of the chat's membership were signed; nothing is released until that is settled";
    NotMember, "not_member", "the account is no member of the chat";
    EpochBeforeMembership, "epoch_before_membership", "the account's membership begins with a later epoch";
    CeilingSpent, "ceiling_spent", "the grant's ceiling of keys is spent at this custodian; sign a new grant";
    ServiceCredential, "service_credential", "this is a service credential's token and no grant; it opens nothing";
}
