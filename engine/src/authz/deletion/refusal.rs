//! Every reason a mandate opens nothing.

use super::super::refusals::refusals;

refusals! {
    /// Why a deletion's mandate, or one key asked for under it, is refused.
    MandateRefusal:
    Form, "form", "the deletion statement has not exactly the documented fields in the form documented";
    OtherDeployment, "other_deployment", "the deletion statement is for another deployment";
    OtherHome, "other_home", "the deletion statement is for another home than the one that shows it";
    DeviceUnknown, "device_unknown", "the device is not one of the account, as far as this custodian was told";
    DeviceExpired, "device_expired", "the device's record ran out; renew it, or sign the deletion with another device";
    DeviceRevoked, "device_revoked", "the device was revoked; sign the deletion with another device";
    Signature, "signature", "the deletion statement is not signed by its device, and by it alone";
    NotYetValid, "not_yet_valid", "the deletion statement was made ahead of the custodian's clock; check the device's clock";
    HorizonOver, "horizon_over", "the mandate is over, 24 hours after its statement was made; sign the deletion anew";
    ChatNotNamed, "chat_not_named", "the deletion statement is about another chat than the key's";
    EpochNotNamed, "epoch_not_named", "the deletion statement does not name the key's epoch";
    ChatUnknown, "chat_unknown", "this custodian was not told of the chat's genesis";
    ChatForked, "chat_forked", "two histories of the chat's membership were signed; nothing is released until that is settled";
    NotMember, "not_member", "the account is no member of the chat";
    RoleMissing, "role_missing", "the deletion names others' messages; an admin of the chat must sign it";
    EpochBeforeMembership, "epoch_before_membership", "the account's membership begins with a later epoch";
    LeaseKeyUsed, "lease_key_used", "the epoch was released to this lease key before; ask with a fresh one";
    ReleasesSpent, "releases_spent", "the epoch was released eight times under this mandate; sign the deletion anew";
}
