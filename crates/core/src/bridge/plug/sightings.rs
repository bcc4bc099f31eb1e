//! What a sighting changes: the address and the protocol of a plug that does not answer on the LAN.

use super::location::Sighted;
use super::{Ctx, KlapPort, Plug};
use crate::model::{Address, KLAP_PORT, LanProtocol, Route};

impl Plug {
    /// The plug was sighted on the LAN, and speaks XOR.
    pub(in crate::bridge) fn sighted(&mut self, address: Address, ctx: &mut Ctx<'_>) {
        let before = self.protocol_and_port();
        self.reachability.routes.saw(LanProtocol::Xor, ctx.now);
        self.sighted_at(address, before, ctx);
    }

    /// The plug was sighted on the LAN, and speaks KLAP at this port. Ignored while it answers.
    pub(in crate::bridge) fn sighted_with_klap(
        &mut self,
        address: Address,
        port: KlapPort,
        ctx: &mut Ctx<'_>,
    ) {
        let before = self.protocol_and_port();
        self.reachability.routes.saw(LanProtocol::Klap, ctx.now);
        if self.reachability.routes.protocol() != Some(LanProtocol::Klap) || self.is_here() {
            return;
        }
        let port = port.filter(|&port| port != KLAP_PORT);
        if self.klap_port != port {
            self.klap_port = port;
            self.remember(ctx);
        }
        self.sighted_at(address, before, ctx);
        self.label_by_address();
        self.publish(ctx);
    }

    /// How the plug is spoken to on the LAN, but for its address.
    fn protocol_and_port(&self) -> (LanProtocol, KlapPort) {
        (self.reachability.routes.protocol_to_speak(), self.klap_port)
    }

    /// `before` is how it was spoken to before the sighting.
    fn sighted_at(&mut self, address: Address, before: (LanProtocol, KlapPort), ctx: &mut Ctx<'_>) {
        let is_up = self.is_here();
        match self.location.sight(address, is_up) {
            Sighted::Current if !is_up => {
                self.polls.set(Route::Local, ctx.now);
                if self.protocol_and_port() != before {
                    self.abandon(Route::Local, ctx);
                    self.try_local_anew();
                }
            }
            Sighted::Current | Sighted::Candidate => {}
            Sighted::MoveTo(address) => self.move_to(address, ctx),
        }
    }

    /// What was sent over the LAN goes out again at once, in another protocol or to another port.
    pub(super) fn try_local_anew(&mut self) {
        if let Some(delivery) = &mut self.desired.delivery {
            delivery.try_anew(Route::Local);
        }
    }

    pub(super) fn move_to(&mut self, address: Address, ctx: &mut Ctx<'_>) {
        self.location.move_to(address, self.may_use(Route::Local));
        self.reachability.routes.forget(Route::Local);
        self.polls.set(Route::Local, ctx.now);
        self.abandon(Route::Local, ctx);
        self.desired.delivery = None;
    }
}
