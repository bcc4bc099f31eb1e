//! The models that a pretend plug can be: which fields its `get_sysinfo` has. Data, no behaviour.

/// What stands on a plug's nameplate, and how its firmware words it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// Model and region, `HS100(EU)`.
    pub name: &'static str,
    /// Hardware version.
    pub hw_ver: &'static str,
    /// Firmware version and build.
    pub sw_ver: &'static str,
    /// The product's name.
    pub dev_name: &'static str,
    /// `IOT.SMARTPLUGSWITCH`, or `SMART.…` for a device of the other command set, which only the account lists.
    pub kind: &'static str,
    /// `TIM`, or `TIM:ENE` with a meter.
    pub feature: &'static str,
    /// Which fields the firmware has and how it calls them.
    pub wording: Wording,
}

/// The three field sets that HS100 firmwares have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wording {
    /// Hardware 1: `type`, `fwId`, `latitude` in degrees.
    First,
    /// Hardware 2: `type`, `fwId`, `latitude_i` in ten-thousandths, `next_action`.
    Second,
    /// Hardware 4: `mic_type`, `status`, `ntc_state`, no `fwId`.
    Fourth,
}

impl Model {
    /// HS100, hardware 1.0, as sold in Europe.
    pub const HS100_HW1: Self = Self {
        name: "HS100(EU)",
        hw_ver: "1.0",
        sw_ver: "1.2.6 Build 200727 Rel.121701",
        dev_name: "Wi-Fi Smart Plug",
        kind: "IOT.SMARTPLUGSWITCH",
        feature: "TIM",
        wording: Wording::First,
    };

    /// HS100, hardware 2.0, as sold in America.
    pub const HS100_HW2: Self = Self {
        name: "HS100(US)",
        hw_ver: "2.0",
        sw_ver: "1.5.6 Build 191118 Rel.140307",
        wording: Wording::Second,
        ..Self::HS100_HW1
    };

    /// HS100, hardware 4.1, as sold in Britain. Its newest firmware speaks KLAP, see
    /// [`Dialect`](super::fault::Dialect).
    pub const HS100_HW4: Self = Self {
        name: "HS100(UK)",
        hw_ver: "4.1",
        sw_ver: "1.1.0 Build 201016 Rel.175121",
        dev_name: "Smart Wi-Fi Plug",
        wording: Wording::Fourth,
        ..Self::HS100_HW1
    };
}
